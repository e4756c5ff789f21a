"""Intrinsic dimension and information imbalance beside DADApy, on the same arrays.

python benchmarks/bench_dimension.py    in an environment with dadapy, which needs NumPy 1 and builds itself
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings

import numpy as np
from dadapy import Data

from repgeom.gride import gride
from repgeom.information_imbalance import information_imbalance
from repgeom.neighbors import knn
from repgeom.two_nn import two_nn
from timing import machine, medians

MAX_RANK = 64


def make_rows(n: int, d: int, seed: int) -> np.ndarray:
    """Points near a curved 12-dimensional sheet, in float32."""
    rng = np.random.default_rng(seed)
    latent = np.random.default_rng(0).standard_normal((n, 12))
    turned = np.tanh(latent @ rng.standard_normal((12, 48)) / 3) @ rng.standard_normal((48, d))
    return (turned + 0.01 * rng.standard_normal((n, d))).astype(np.float32)


def ours(x: np.ndarray, threads: int) -> tuple[float, np.ndarray]:
    """TwoNN and Gride from one search."""
    near = knn(x, MAX_RANK, threads=threads)
    return two_nn(near).value, gride(near, max_rank=MAX_RANK, compat="dadapy").values


def dadapy(x: np.ndarray, threads: int) -> tuple[float, np.ndarray]:
    """The same by DADApy, which takes float64."""
    data = Data(x.astype(np.float64), maxk=MAX_RANK, n_jobs=threads)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = data.return_id_scaling_gride(range_max=MAX_RANK)[0]
        return data.compute_id_2NN()[0], profile


def dadapy_imbalance(a: np.ndarray, b: np.ndarray, threads: int) -> tuple[float, float]:
    """Both imbalances with exact ranks: one group of all points."""
    n = len(a)
    data = Data(a.astype(np.float64), maxk=n - 1, n_jobs=threads)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forth, back = data.return_information_imbalace(b.astype(np.float64), k=1, subset_size=n)
    return float(forth[0]), float(back[0])


def dimensions(n: int, d: int, threads: int, repeats: int) -> None:
    """TwoNN and Gride: equal first, then timed in turn."""
    x = make_rows(n, d, 1)
    mine, theirs = ours(x, threads), dadapy(x, threads)
    difference = float(np.abs(mine[1] / theirs[1] - 1).max())
    if not (difference <= 1e-4):
        raise AssertionError(f"Gride differs by {difference:.1e} relative: {mine[1]} and {theirs[1]}")
    times = medians({"repgeom": lambda: ours(x, threads), "dadapy": lambda: dadapy(x, threads)}, repeats)
    row("TwoNN and Gride to rank 64", f"{n} x {d}", times["repgeom"], times["dadapy"], difference)


def row(*cells: str | float) -> None:
    """One line of the table."""
    what, points, mine, peer, difference = cells
    ratio = float(peer) / float(mine)
    print(
        f"| {what} | {points} | {mine:.2f} s | {peer:.2f} s | {ratio:.1f}x | {difference:.0e} |", flush=True
    )


def imbalance(n: int, d: int, threads: int) -> None:
    """Information imbalance: the peer takes minutes, so each is timed once, ours as the median of three."""
    a, b = make_rows(n, d, 1), make_rows(n, d, 2)
    start = time.perf_counter()
    theirs = dadapy_imbalance(a, b, threads)
    peer = time.perf_counter() - start
    found = information_imbalance(a, b, threads=threads)
    difference = max(abs(found.a_to_b - theirs[0]), abs(found.b_to_a - theirs[1]))
    if not (difference <= 1e-3 * max(theirs)):
        raise AssertionError(f"the imbalances differ: {found} and {theirs}")
    mine = medians({"repgeom": lambda: information_imbalance(a, b, threads=threads)}, 3)["repgeom"]
    row("information imbalance, exact ranks", f"2 x {n} x {d}", mine, peer, difference)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}, {options.threads} threads\n")
    print("| what | points | repgeom | DADApy | ratio | largest difference |\n|---|---|---|---|---|---|")
    dimensions(options.points, options.width, options.threads, options.repeats)
    imbalance(options.points, options.width, options.threads)


if __name__ == "__main__":
    main()

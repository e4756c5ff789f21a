"""Vietoris-Rips persistence beside ripser.py, giotto-ph and GUDHI, on the same float32 distances.

    python benchmarks/bench_homology.py [--quick] [--threads 2] [--repeats 7]

Bars are asserted equal, as multisets of float32 pairs, before anything is timed. The floor is one read of the
distances and one sort of the edges. Peers that take longer than a minute are timed once.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import repgeom as rg
from timing import PAUSE, machine, medians

Float32Array = npt.NDArray[np.float32]
Bars = list[npt.NDArray[np.float32]]
DATA = Path(__file__).parent.parent / "tests" / "data" / "homology.npz"
PATIENCE = 20.0  # seconds beyond which a peer is timed once
LIMIT = 600  # seconds after which it is given up


@dataclass(frozen=True)
class Case:
    """One row of the table; ``points`` is None where the input is a matrix."""

    name: str
    points: Float32Array | None
    distances: Float32Array
    max_dim: int
    threshold: float = math.inf
    field: int = 2


def gaussian(n: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((n, 50)).astype(np.float32)


def noisy_torus(n: int, seed: int = 0) -> Float32Array:
    """Two angles, as cosines and sines, through a random linear map into R^50, with noise of 0.05."""
    generator = np.random.default_rng(seed)
    angles = generator.uniform(0, 2 * np.pi, (n, 2))
    circle = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    noise = 0.05 * generator.standard_normal((n, 50))
    return np.asarray(circle @ generator.standard_normal((4, 50)) + noise, dtype=np.float32)


def sphere(n: int, seed: int = 0) -> Float32Array:
    points = np.random.default_rng(seed).standard_normal((n, 3))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


def distances_of(points: npt.NDArray[np.floating]) -> Float32Array:
    wide = points.astype(np.float64)
    distances = np.empty((len(wide), len(wide)), dtype=np.float32)
    for i, row in enumerate(wide):
        distances[i] = np.sqrt(np.sum((wide - row) ** 2, axis=1))
    return distances


def of_points(name: str, points: Float32Array, max_dim: int) -> Case:
    return Case(name, points, distances_of(points), max_dim)


def ours(case: Case, threads: int) -> Callable[[], rg.PersistenceDiagrams]:
    threshold = None if math.isinf(case.threshold) else case.threshold
    return lambda: rg.rips(
        case.distances,
        case.max_dim,
        metric="precomputed",
        threshold=threshold,
        coefficients=case.field,
        threads=threads,
    )


def by_ripser(case: Case) -> Callable[[], Bars]:
    from ripser import ripser

    settings = {"maxdim": case.max_dim, "thresh": case.threshold, "coeff": case.field}
    return lambda: ripser(case.distances, distance_matrix=True, **settings)["dgms"]  # type: ignore[no-any-return]


def by_giotto(case: Case, threads: int) -> Callable[[], Bars]:
    from gph import ripser_parallel

    settings = {"maxdim": case.max_dim, "thresh": case.threshold, "coeff": case.field, "n_threads": threads}
    return lambda: ripser_parallel(case.distances, metric="precomputed", **settings)["dgms"]  # type: ignore[no-any-return]


def by_gudhi(case: Case) -> Callable[[], Bars]:
    import gudhi

    # GUDHI knows no enclosing radius by itself; beyond it nothing happens.
    limit = min(case.threshold, float(case.distances.max(axis=1).min()))

    def run() -> Bars:
        complex_ = gudhi.RipsComplex(distance_matrix=case.distances, max_edge_length=limit)
        tree = complex_.create_simplex_tree(max_dimension=case.max_dim + 1)
        tree.compute_persistence(homology_coeff_field=case.field)
        return [tree.persistence_intervals_in_dimension(dim) for dim in range(case.max_dim + 1)]

    return run


def multiset(bars: npt.ArrayLike) -> list[tuple[float, float]]:
    array = np.asarray(bars, dtype=np.float32).reshape(-1, 2)
    return sorted((float(b), float(d)) for b, d in array if d > b)


def assert_equal(found: rg.PersistenceDiagrams, peer: Bars, name: str) -> None:
    for dim, bars in enumerate(peer):
        endless = [(float(b), math.inf) for b in found.infinite[dim]]
        if multiset(bars) != sorted(multiset(found[dim]) + endless):
            raise AssertionError(f"{name}: bars of dimension {dim} differ")


def floor(case: Case) -> float:
    """Seconds for one read of the distances and one sort of the edges by the best sort that NumPy has."""
    n = len(case.distances)
    limit = min(case.threshold, float(case.distances.max(axis=1).min()))
    lengths = case.distances[np.tril_indices(n, -1)]
    lengths = lengths[lengths <= limit]
    return medians({"floor": lambda: (case.distances.max(axis=1), np.sort(lengths))}, 7)["floor"]


def peers_of(case: Case, threads: int, gudhi_too: bool) -> dict[str, Callable[[], Bars]]:
    peers = {"ripser.py": by_ripser(case), "giotto-ph": by_giotto(case, threads)}
    if gudhi_too:
        peers["GUDHI"] = by_gudhi(case)
    return peers


def timed_once(call: Callable[[], Bars]) -> tuple[float, Bars]:
    start = time.perf_counter()
    bars = call()
    return time.perf_counter() - start, bars


def row(case: Case, threads: int, repeats: int, gudhi_too: bool) -> str:
    mine = ours(case, threads)
    found = mine()
    calls: dict[str, Callable[[], object]] = {"repgeom": mine}
    seconds: dict[str, float] = {}
    for name, call in peers_of(case, threads, gudhi_too).items():
        once, bars = timed_once(call)
        assert_equal(found, bars, f"{case.name}, {name}")
        if once > PATIENCE / repeats:
            seconds[name] = once
        else:
            calls[name] = call
    seconds |= medians(calls, repeats)
    own = seconds.pop("repgeom")
    least = floor(case)
    bars_text = "/".join(str(len(found[dim]) + len(found.infinite[dim])) for dim in range(case.max_dim + 1))
    cells = [case.name, bars_text, milliseconds(own), f"{own / least:.1f}"]
    for name in ("ripser.py", "giotto-ph", "GUDHI"):
        cells.append(f"{milliseconds(seconds[name])} ({seconds[name] / own:.1f}x)" if name in seconds else "")
    return "| " + " | ".join(cells) + " |"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def from_points(case: Case, threads: int, repeats: int) -> str:
    """The same from points: each program by its own distances."""
    from gph import ripser_parallel
    from ripser import ripser

    points = case.points
    calls: dict[str, Callable[[], object]] = {
        "repgeom": lambda: rg.rips(points, case.max_dim, threads=threads),
        "ripser.py": lambda: ripser(points, maxdim=case.max_dim),
        "giotto-ph": lambda: ripser_parallel(points, maxdim=case.max_dim, n_threads=threads),
    }
    found = rg.rips(points, case.max_dim, threads=threads)
    exact = rg.rips(case.distances, case.max_dim, metric="precomputed", threads=threads)
    assert_equal(found, list(exact.to_ripser()["dgms"]), case.name)
    seconds = medians(calls, repeats)
    own = seconds["repgeom"]
    rest = (f"{milliseconds(seconds[k])} ({seconds[k] / own:.1f}x)" for k in ("ripser.py", "giotto-ph"))
    return f"| {case.name} | {milliseconds(own)} | " + " | ".join(rest) + " |"


def batch(threads: int, repeats: int) -> str:
    clouds = [gaussian(500, seed) for seed in range(12)]
    together, single = rg.rips(clouds, threads=threads), [rg.rips(c, threads=threads) for c in clouds]
    for a, b in zip(together, single, strict=True):
        assert np.array_equal(a[1], b[1])
    seconds = medians(
        {
            "batch": lambda: rg.rips(clouds, threads=threads),
            "singles": lambda: [rg.rips(cloud, threads=threads) for cloud in clouds],
            "single, 1 thread": lambda: [rg.rips(cloud, threads=1) for cloud in clouds],
        },
        repeats,
    )
    return (
        f"12 layers of 500 points in one call: {milliseconds(seconds['batch'])}, "
        f"{seconds['batch'] / seconds['singles']:.2f} of twelve calls on {threads} threads, "
        f"{seconds['batch'] / seconds['single, 1 thread']:.2f} of twelve calls on one"
    )


def _large(kind: str, n: int, threads: int, connection: object) -> None:
    points = gaussian(n) if kind == "gaussian" else noisy_torus(n)
    distances = distances_of(points)
    start = time.perf_counter()
    found = rg.rips(distances, metric="precomputed", threads=threads)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    connection.send((seconds, peak, distances.nbytes, len(found[1])))  # type: ignore[attr-defined]


def large(kind: str, n: int, threads: int) -> str:
    """In a process of its own, whose peak memory is read at the end."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_large, args=(kind, n, threads, sender))
    process.start()
    seconds, peak, matrix, bars = receiver.recv()
    process.join()
    return (
        f"H1, {kind} n = {n}: {seconds:.2f} s, {bars} bars, peak {peak / 1e6:.0f} MB of the process, "
        f"the matrix ({matrix / 1e6:.0f} MB) included"
    )


def _peer_large(kind: str, n: int, threads: int, peer: str, connection: object) -> None:
    points = gaussian(n) if kind == "gaussian" else noisy_torus(n)
    case = of_points(kind, points, 1)
    call = by_giotto(case, threads) if peer == "giotto-ph" else by_ripser(case)
    connection.send(timed_once(call)[0])  # type: ignore[attr-defined]


def peer_large(kind: str, n: int, threads: int, peer: str) -> str:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peer_large, args=(kind, n, threads, peer, sender))
    process.start()
    done = receiver.poll(LIMIT)
    text = f"{receiver.recv():.1f} s" if done else f"not done in {LIMIT} s"
    process.kill()
    process.join()
    return f"  {peer}: {text}"


def cases(quick: bool) -> list[tuple[Case, bool]]:
    """Cases, and whether GUDHI takes part (it writes the complex down)."""
    out = []
    for n in (500,) if quick else (500, 1000):
        out.append((of_points(f"H1, Gaussian R^50, n = {n}", gaussian(n), 1), n == 500))
        out.append((of_points(f"H1, noisy 2-torus R^50, n = {n}", noisy_torus(n), 1), n == 500))
    sizes = (200, 200, 150) if quick else (500, 500, 300)
    out.append((of_points(f"H2, Gaussian R^50, n = {sizes[0]}", gaussian(sizes[0]), 2), False))
    out.append((of_points(f"H2, noisy 2-torus R^50, n = {sizes[1]}", noisy_torus(sizes[1]), 2), False))
    out.append((of_points(f"H2, S^2, n = {sizes[2]}", sphere(sizes[2]), 2), False))
    return out + ripser_cases(quick)


def ripser_cases(quick: bool) -> list[tuple[Case, bool]]:
    """Inputs of Ripser, as the tests hold them."""
    held = np.load(DATA)
    plane = held["in.projective_plane"].astype(np.float32)
    random = held["in.random16"].astype(np.float32)
    out = [
        (Case("projective plane, H2, Z/2", None, plane, 2, 2.0), True),
        (Case("projective plane, H2, Z/3", None, plane, 2, 2.0, 3), True),
        (Case("random16, H3", None, random, 3, 103.0), True),
    ]
    if quick:
        return out
    o3 = distances_of(held["in.o3_1024"])
    s3 = np.zeros((192, 192), dtype=np.float32)
    s3[np.tril_indices(192, -1)] = held["in.sphere_3_192"]
    s3 += s3.T
    out += [(Case(f"o3_1024, H{dim}, threshold 1.8", None, o3, dim, 1.8), False) for dim in (1, 2, 3)]
    return out + [(Case(f"sphere_3_192, H{dim}", None, s3, dim), False) for dim in (2, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, one minute")
    parser.add_argument("--only", default="", help="cases whose names match this regular expression")
    parser.add_argument("--large", action="store_true", help="n = 4000 as well, 10 minutes per peer")
    arguments = parser.parse_args()
    print(f"{machine()}, {arguments.threads} threads, medians of {arguments.repeats}\n", flush=True)
    print("| case | bars H0/H1/... | repgeom | x floor | ripser.py | giotto-ph | GUDHI |")
    print("|---|---|---|---|---|---|---|")
    listed = [case for case in cases(arguments.quick) if re.search(arguments.only, case[0].name)]
    for case, gudhi_too in listed:
        print(row(case, arguments.threads, arguments.repeats, gudhi_too), flush=True)
        time.sleep(PAUSE)
    print("\n| from points | repgeom | ripser.py | giotto-ph |\n|---|---|---|---|")
    for case, _ in listed:
        if case.points is not None and case.max_dim == 1:
            print(from_points(case, arguments.threads, arguments.repeats), flush=True)
    print("\n" + batch(arguments.threads, arguments.repeats), flush=True)
    if arguments.large:
        for kind in ("gaussian", "torus"):
            print(large(kind, 4000, arguments.threads), flush=True)
            for peer in ("giotto-ph", "ripser.py"):
                print(peer_large(kind, 4000, arguments.threads, peer), flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Leading eigenpairs beside torch, scikit-learn and SciPy, and sketches beside the full covariance.

python benchmarks/bench_eigensolver.py           the tables; residuals are checked first
pytest benchmarks/bench_eigensolver.py           the same calls under pytest-benchmark

All programs are timed to the same accuracy: every residual at most 1e-6 of the largest eigenvalue.
scikit-learn gets the fewest power iterations, SciPy the loosest tolerance, that reach it; "-" where none
does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from sklearn.utils.extmath import randomized_svd

from repgeom.eigensolver import top_eigenpairs
from repgeom.sketches import NystromSketch
from timing import PAUSE, machine, medians, multiply_add_peak

TOLERANCE = 1e-6
ITERATIONS = (1, 2, 4, 7, 12, 20, 35)
ARPACK_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
Pairs = tuple[np.ndarray, np.ndarray]
Call = Callable[[], Pairs]


def noise_bulk(d: int, ratio: float = 0.25) -> np.ndarray:
    """Quantiles of Marchenko and Pastur's law, descending: noise in d / ratio rows."""
    angles = np.linspace(0, np.pi, 200_001)
    values = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angles)
    mass = np.cumsum(np.sin(angles) ** 2 / values)
    return np.interp((np.arange(d) + 0.5) / d, mass / mass[-1], values)


def spectra(d: int) -> dict[str, np.ndarray]:
    """Eigenvalues, descending.

    The bulk is that of noise in four rows per dimension. A hard edge, where the density is infinite, is the
    worst case of every Krylov method: no noise has it, and it is timed only on demand.
    """
    ranks = np.arange(1, d + 1.0)
    bulk, spikes = noise_bulk(d), np.linspace(50, 5, 30)
    hard = 0.25 + 2 * np.cos(np.pi * (ranks - 0.5) / (2 * d)) ** 4
    return {
        "1/i": 1 / ranks,
        "i^-0.5": ranks**-0.5,
        "exp(-i/20)": np.exp(-ranks / 20),
        "30 spikes + bulk": np.concatenate([spikes, bulk[: d - 30]]),
        "one spike of 1e8": np.concatenate([[1e8], bulk[: d - 1]]),
        "30 spikes + hard edge": np.concatenate([spikes, hard[: d - 30]]),
    }


def make_matrix(values: np.ndarray) -> np.ndarray:
    """A symmetric matrix with these eigenvalues: eight random reflections of the diagonal one."""
    generator = np.random.default_rng(0)
    matrix = np.diag(values)
    for _ in range(8):
        v = generator.standard_normal(len(values))
        v /= np.linalg.norm(v)
        image = matrix @ v
        image -= (v @ image) * v
        matrix -= 2 * np.outer(v, image)
        matrix -= 2 * np.outer(image, v)
    return (matrix + matrix.T) / 2


def worst_residual(matrix: np.ndarray, pairs: Pairs) -> float:
    """Largest residual over the largest value."""
    values, vectors = pairs
    return float(np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() / values.max())


def ours(matrix: np.ndarray, k: int, threads: int, method: str = "auto") -> Pairs:
    found = top_eigenpairs(matrix, k, tol=TOLERANCE, threads=threads, method=method)
    return found.values, found.vectors


def torch_pairs(matrix: np.ndarray, k: int) -> Pairs:
    values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    return values[-k:].numpy(), vectors[:, -k:].numpy()


def sklearn_pairs(matrix: np.ndarray, k: int, iterations: int) -> Pairs:
    vectors, values, _ = randomized_svd(matrix, k, n_iter=iterations, random_state=0)
    return values, vectors


def scipy_pairs(matrix: np.ndarray, k: int, tolerance: float) -> Pairs:
    values, vectors = eigsh(
        matrix, k=k, tol=tolerance, v0=np.random.default_rng(0).standard_normal(len(matrix))
    )
    return values, vectors


def make_calls(matrix: np.ndarray, k: int, threads: int) -> dict[str, Call]:
    """Every iteration that reaches the accuracy, set to reach it with the least work, and run once."""
    calls: dict[str, Call] = {"repgeom": lambda: ours(matrix, k, threads)}
    assert worst_residual(matrix, calls["repgeom"]()) <= TOLERANCE, "repgeom is not as accurate as it says"
    for iterations in ITERATIONS:
        if worst_residual(matrix, sklearn_pairs(matrix, k, iterations)) <= TOLERANCE:
            calls["randomized_svd"] = partial(sklearn_pairs, matrix, k, iterations)
            break
    for tolerance in ARPACK_TOLERANCES:
        if worst_residual(matrix, scipy_pairs(matrix, k, tolerance)) <= TOLERANCE:
            calls["eigsh"] = partial(scipy_pairs, matrix, k, tolerance)
            break
    return calls


@pytest.mark.parametrize("program", ["repgeom", "eigh", "randomized_svd", "eigsh"])
def test_eigenpairs(benchmark, program: str) -> None:
    benchmark.group = "eigenpairs, d = 1024, k = 32, 1/i"
    matrix = make_matrix(spectra(1024)["1/i"])
    calls = make_calls(matrix, 32, torch.get_num_threads())
    benchmark({"eigh": lambda: torch_pairs(matrix, 32), **calls}[program])


def in_turns(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Median seconds of calls that have run before."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_case(case: str, name: str, args: argparse.Namespace, peak: float, eigh: dict[int, float]) -> None:
    """``eigh`` keeps the seconds of torch.linalg.eigh, which needs as long for every spectrum."""
    d, k = map(int, case.split(","))
    matrix = make_matrix(spectra(d)[name])
    if not args.no_eigh and d not in eigh:
        eigh[d] = in_turns({"eigh": lambda: torch_pairs(matrix, k)}, 1)["eigh"]
    times = in_turns(make_calls(matrix, k, args.threads), args.repeats)
    if d in eigh:
        times["eigh"] = eigh[d]
    found = top_eigenpairs(matrix, k, tol=TOLERANCE, threads=args.threads)
    seconds = times["repgeom"]
    # The floor: the products alone at the fp64 multiply-add rate, half of that of fp32.
    floor = 2 * d * d * found.products / (peak / 2)
    peers = " | ".join(
        f"{times[peer] / seconds:.1f}x" if peer in times else "-"
        for peer in ("eigh", "randomized_svd", "eigsh")
    )
    print(
        f"| {d} | {k} | {name} | {seconds * 1e3:.0f} ms | {found.method} | {found.products} "
        f"| {floor * 1e3:.0f} ms ({floor / seconds:.0%}) | {peers} |",
        flush=True,
    )


def print_crossover(args: argparse.Namespace) -> None:
    """method="auto" beside both ways."""
    print("\n| d | k | spectrum | krylov | dense | auto | auto took | auto / best |")
    print("|---|---|---|---|---|---|---|---|")
    for d in args.crossover:
        for share in (64, 8, 4):
            for name in ("1/i", "exp(-i/20)", "30 spikes + bulk"):
                matrix, k = make_matrix(spectra(d)[name]), max(1, d // share)
                methods = ("krylov", "dense", "auto")
                calls = {m: partial(ours, matrix, k, args.threads, m) for m in methods}
                # The threads of LAPACK stay awake for a while after the dense method.
                times = medians({m: calls[m] for m in ("krylov", "auto")}, args.repeats)
                times |= medians({"dense": calls["dense"]}, args.repeats)
                took = top_eigenpairs(matrix, k, tol=TOLERANCE, threads=args.threads).method
                cells = " | ".join(f"{times[m] * 1e3:.0f} ms" for m in methods)
                ratio = times["auto"] / min(times["krylov"], times["dense"])
                print(f"| {d} | {k} | {name} | {cells} | {took} | {ratio:.2f} |", flush=True)


def print_sketch(d: int, rank: int, rows: int, threads: int, peak: float) -> None:
    x = np.random.default_rng(0).standard_normal((rows, d), dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sketch = NystromSketch(d, rank, oversampling=2, threads=threads)
    start = time.perf_counter()
    for part in np.array_split(x, max(1, rows // 2048)):
        sketch.update(part)
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    columns = sketch.columns + 24
    flops, full = 4.0 * rows * d * columns, float(rows) * d * d
    print(
        f"\nNystrom, d = {d}, rank {rank}, {sketch.columns} + 24 columns, {rows} fp32 rows: {seconds:.2f} s, "
        f"{rows * d * 4 / seconds / 1e9:.2f} GB/s of rows, {flops / seconds / 1e9:.0f} GFLOP/s "
        f"({flops / seconds / (peak / 2):.0%} of the fp64 peak); the full update is {full / flops:.1f} "
        f"times the flops (and {8 * d * d / 2**20:.0f} MiB); memory beyond the rows {memory:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=["4096,64"])
    parser.add_argument("--spectra", nargs="+", choices=list(spectra(64)), default=list(spectra(64))[:5])
    parser.add_argument("--crossover", nargs="*", type=int, default=[512, 1024])
    parser.add_argument("--sketch", default="16384,256,16384")
    parser.add_argument("--no-eigh", action="store_true", help="leave torch.linalg.eigh out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peak = multiply_add_peak(args.threads)
    print(f"{machine()}; {args.threads} threads; fp32 multiply-add peak {peak / 1e9:.0f} GFLOP/s")
    print(f"medians of {args.repeats} (eigh: one run for each d), to relative residuals of {TOLERANCE:g};")
    print("floor: the flops of the products at half of the fp32 peak, the fp64 peak\n")
    print("| d | k | spectrum | repgeom | method | products | floor | eigh | randomized_svd | eigsh |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    eigh: dict[int, float] = {}
    for case in args.cases:
        for name in args.spectra:
            print_case(case, name, args, peak, eigh)
    if args.crossover:
        print_crossover(args)
    if args.sketch:
        d, rank, rows = map(int, args.sketch.split(","))
        print_sketch(d, rank, rows, args.threads, peak)


if __name__ == "__main__":
    main()

"""Exact nearest neighbours beside faiss, scikit-learn and torch, on the same arrays.

python benchmarks/bench_neighbors.py             the tables; recall against float64 comes first
pytest benchmarks/bench_neighbors.py             the same calls under pytest-benchmark
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from repgeom.neighbors import knn, neighbor_ranks
from timing import machine, medians, multiply_add_peak

CASES = ((10_000, 64, 30), (20_000, 768, 64), (10_000, 4096, 30), (5_000, 768, 2))
PEERS = ("faiss", "scikit-learn", "torch")
CHECKED_ROWS = 200


def make_rows(n: int, d: int) -> np.ndarray:
    """Standard normal rows."""
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)


def hard_cases(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same rows as language models have them."""
    channel, varying, shifted = x.copy(), x.copy(), x.copy()
    channel[:, 3] += 1000
    varying[:, 3] *= 1000
    shifted[np.random.default_rng(1).random(len(x)) < 0.3] += 3000
    return {"one channel + 1000": channel, "one channel x 1000": varying, "30 % of rows + 3000": shifted}


def faiss_knn(x: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return without_self(index.search(x, k + 1)[1], k)


def sklearn_knn(x: np.ndarray, k: int, threads: int) -> np.ndarray:
    index = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=threads).fit(x)
    return index.kneighbors(return_distance=True)[1]


def torch_knn(x: np.ndarray, k: int, chunk: int = 2048) -> np.ndarray:
    rows = torch.from_numpy(x)
    squares = (rows * rows).sum(1)
    found = []
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        values = torch.addmm(squares[None, :], rows[part], rows.T, alpha=-2)
        found.append(values.add_(squares[part, None]).topk(k + 1, largest=False).indices)
    return without_self(torch.cat(found).numpy(), k)


def without_self(indices: np.ndarray, k: int) -> np.ndarray:
    """Drops each row from its own list of k + 1; the last entry where the row is missing from it."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    return indices[~own].reshape(len(indices), k)


def make_calls(x: np.ndarray, k: int, threads: int) -> dict[str, Callable[[], np.ndarray]]:
    """The neighbours of every row, by each program."""
    return {
        "repgeom": lambda: knn(x, k, threads=threads).indices,
        "faiss": lambda: faiss_knn(x, k),
        "scikit-learn": lambda: sklearn_knn(x, k, threads),
        "torch": lambda: torch_knn(x, k),
    }


def exact_rows(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Some rows, and their neighbours by float64 differences."""
    rows = np.random.default_rng(2).choice(len(x), CHECKED_ROWS, replace=False)
    wide = x.astype(np.float64)
    found = []
    for row in rows:
        values = np.square(wide - wide[row]).sum(axis=1)
        values[row] = np.inf
        found.append(np.argsort(values, kind="stable")[:k])
    return rows, np.array(found)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that were found."""
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return sum(shared) / exact.size


def recalls(x: np.ndarray, k: int, threads: int) -> dict[str, float]:
    """Recall of every program; repgeom's must be 1."""
    rows, exact = exact_rows(x, k)
    found = {name: recall(call()[rows], exact) for name, call in make_calls(x, k, threads).items()}
    assert found["repgeom"] == 1, "repgeom is not exact"
    return found


@pytest.mark.parametrize("program", ["repgeom", *PEERS])
def test_neighbors(benchmark, program: str) -> None:
    benchmark.group = "neighbors, 5000 x 768, k = 2"
    threads = torch.get_num_threads()
    x = make_rows(5_000, 768)
    recalls(x, 2, threads)
    benchmark(make_calls(x, 2, threads)[program])


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def print_peers(case: tuple[int, int, int], threads: int, repeats: int, peak: float) -> None:
    n, d, k = case
    x = make_rows(n, d)
    found = recalls(x, k, threads)
    times = medians(make_calls(x, k, threads), repeats)
    ours = times["repgeom"]
    certificate = knn(x, k, threads=threads).certificate
    ratios = " | ".join(f"{times[peer] / ours:.1f}x ({found[peer]:.4f})" for peer in PEERS)
    rate = n * n * d / ours
    print(
        f"| {n} | {d} | {k} | {ours * 1e3:.0f} ms | {rate / 1e9:.0f} | {rate / peak:.0%} "
        f"| {ratios} | {certificate.evaluated_mean:.1f} | {certificate.bytes / 2**20:.0f} MiB |",
        flush=True,
    )


def print_hard(case: tuple[int, int, int], threads: int, repeats: int) -> None:
    n, d, k = case
    x = make_rows(n, d)
    arrays = {"clean": x, **hard_cases(x)}
    times = medians({name: lambda a=a: knn(a, k, threads=threads) for name, a in arrays.items()}, repeats)
    for name, array in list(arrays.items())[1:]:
        found = recalls(array, k, threads)
        peers = ", ".join(f"{peer} {found[peer]:.4f}" for peer in PEERS)
        slower = times[name] / times["clean"]
        print(f"| {n} | {d} | {k} | {name} | {slower:.2f} | {found['repgeom']:.0f} | {peers} |", flush=True)


def print_ranks(threads: int, repeats: int) -> None:
    n, d = 10_000, 768
    a, b = make_rows(n, d), np.random.default_rng(5).standard_normal((n, d), dtype=np.float32)
    first = knn(a, 1, threads=threads).indices
    times = medians(
        {
            "unrelated": lambda: neighbor_ranks(b, first, threads=threads),
            "related": lambda: neighbor_ranks(a + 0.1 * b, first, threads=threads),
        },
        repeats,
    )
    for name, seconds in times.items():
        print(f"ranks of nearest neighbours, {n} x {d}, {name} representation: {seconds * 1e3:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[",".join(map(str, case)) for case in CASES])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    cases = [tuple(map(int, case.split(","))) for case in args.cases]
    set_threads(args.threads)
    peak = multiply_add_peak(args.threads)
    print(f"{machine()}; {args.threads} threads; fp32 multiply-add peak {peak / 1e9:.0f} GFLOP/s")
    print(
        f"fp32 rows; flops counted as n^2 d; medians of {args.repeats}; recall against float64 in brackets.\n"
    )
    print(
        "| n | d | k | repgeom | GFLOP/s | of peak | vs faiss | vs scikit-learn | vs torch "
        "| float64 values per row | memory |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        print_peers(case, args.threads, args.repeats if case[0] * case[0] * case[1] < 1e11 else 3, peak)
    print("\n| n | d | k | case | time / clean | recall | recall of peers |\n|---|---|---|---|---|---|---|")
    for case in cases:
        print_hard(case, args.threads, 3)
    print()
    print_ranks(args.threads, 3)


if __name__ == "__main__":
    main()

"""Linear CKA of all pairs of layers beside torch, on the same arrays.

python benchmarks/bench_similarity.py            the tables; accuracy against float64 comes first
pytest benchmarks/bench_similarity.py            the same calls under pytest-benchmark
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from repgeom.cka import cka
from repgeom.streaming_cka import StreamingCKA
from timing import machine, medians, multiply_add_peak

CASES = ((12, 4096, 768), (12, 512, 4096), (4, 8192, 128))
PEERS = ("torch, nested", "torch, Grams kept")


def make_layers(layers: int, n: int, d: int) -> list[np.ndarray]:
    """A residual stream: every layer adds to the one before it."""
    rng = np.random.default_rng(0)
    stream = rng.standard_normal((n, d), dtype=np.float32)
    found = [stream]
    for _ in range(layers - 1):
        stream = stream + 0.5 * np.tanh(rng.standard_normal((n, d), dtype=np.float32) + stream)
        found.append(stream)
    return found


def centred_gram(x: torch.Tensor) -> torch.Tensor:
    """U-centred, as debiased CKA needs it."""
    n = len(x)
    gram = (x @ x.T).fill_diagonal_(0)
    means = gram.sum(1) / (n - 2)
    gram -= means - means.sum() / (2 * (n - 1))
    gram -= (means - means.sum() / (2 * (n - 1)))[:, None]
    return gram.fill_diagonal_(0)


def hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    return (k * m).sum()


def torch_nested(layers: list[np.ndarray], rows: int | None = None) -> np.ndarray:
    """The loop that most programs have: for every pair both Gram matrices, centred, and three HSIC.

    With ``rows`` only the first rows of the table: all rows cost the same.
    """
    tensors = [torch.from_numpy(x) for x in layers]
    found = np.empty((len(tensors[:rows]), len(tensors)))
    for i, x in enumerate(tensors[:rows]):
        for j, y in enumerate(tensors):
            k, m = centred_gram(x), centred_gram(y)
            found[i, j] = hsic(k, m) / torch.sqrt(hsic(k, k) * hsic(m, m))
    return found


def torch_kept(layers: list[np.ndarray]) -> np.ndarray:
    """The best that a careful user writes: every Gram matrix once, all of them in memory, pairs i <= j."""
    grams = [centred_gram(torch.from_numpy(x)) for x in layers]
    found = np.empty((len(grams), len(grams)))
    for i, k in enumerate(grams):
        for j, m in enumerate(grams[i:], i):
            found[i, j] = found[j, i] = hsic(k, m)
    own = np.sqrt(np.diag(found))
    return found / np.outer(own, own)


def make_calls(layers: list[np.ndarray], rows: int | None = None) -> dict[str, Callable[[], np.ndarray]]:
    """CKA of all pairs, by each program; of the nested loop its first rows."""
    return {
        "repgeom": lambda: cka(layers, standard_errors=False).values,
        "with errors": lambda: cka(layers).values,
        "torch, Grams kept": lambda: torch_kept(layers),
        "torch, nested": lambda: torch_nested(layers, rows),
    }


def errors(layers: list[np.ndarray]) -> dict[str, float]:
    """Largest error against float64; repgeom's must be below what it states."""
    exact = cka([x.astype(np.float64) for x in layers], standard_errors=False).values
    stated = float(cka(layers, standard_errors=False).rounding.max())
    found = {}
    for name, call in make_calls(layers, 1).items():
        values = call()
        found[name] = float(np.abs(values - exact[: len(values)]).max())
    assert found["repgeom"] <= stated, "repgeom is further off than it says"
    assert found["with errors"] <= stated
    return found


@pytest.mark.parametrize("program", ["repgeom", "with errors", *PEERS])
def test_all_pairs(benchmark, program: str) -> None:
    benchmark.group = "CKA, 6 layers x 1024 x 256"
    layers = make_layers(6, 1024, 256)
    errors(layers)
    benchmark(make_calls(layers)[program])


def print_peers(case: tuple[int, int, int], repeats: int, peak: float) -> None:
    count, n, d = case
    layers = make_layers(*case)
    wrong = errors(layers)
    times = medians(make_calls(layers, 1), repeats)
    times["torch, nested"] *= count
    ours = times["repgeom"]
    floor = min(count * n * n * d, count * (count + 1) * n * d * d)
    ratios = " | ".join(f"{times[peer] / ours:.1f}x ({wrong[peer]:.0e})" for peer in PEERS)
    print(
        f"| {count} | {n} | {d} | {ours * 1e3:.0f} ms ({wrong['repgeom']:.0e}) "
        f"| {floor / ours / peak:.0%} | {times['with errors'] * 1e3:.0f} ms | {ratios} |",
        flush=True,
    )


def print_streaming(repeats: int) -> None:
    layers = dict(enumerate(make_layers(12, 4096, 768)))
    parts = [{name: x[i : i + 256] for name, x in layers.items()} for i in range(0, 4096, 256)]

    def stream() -> np.ndarray:
        found = StreamingCKA(layers)
        for part in parts:
            found.update(part)
        return found.read().values

    seconds = medians({"streaming": stream}, repeats)["streaming"]
    print(f"\n12 layers x 4096 x 768 as 16 minibatches of 256: {seconds * 1e3:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[",".join(map(str, case)) for case in CASES])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        peak = multiply_add_peak(args.threads)
        print(f"{machine()}; {args.threads} threads; fp32 multiply-add peak {peak / 1e9:.0f} GFLOP/s")
        print(
            "fp32 rows, debiased linear CKA of all pairs; flops of symmetric products by the cheaper way;\n"
            f"medians of {args.repeats}; largest error against float64 in brackets.\n"
        )
        print(
            "| layers | n | d | repgeom | of peak | with standard errors | vs torch, nested "
            "| vs torch, Grams kept |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for case in args.cases:
            print_peers(tuple(map(int, case.split(","))), args.repeats, peak)
        print_streaming(args.repeats)


if __name__ == "__main__":
    main()

"""Covariance update beside torch, NumPy and representation-geometry, on the same arrays.

python benchmarks/bench_covariance.py            the table; answers are compared first
pytest benchmarks/bench_covariance.py            the same calls under pytest-benchmark
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pytest
import torch
from representation_geometry.online import RunningCovariance

import repgeom as rg
from timing import machine, medians, multiply_add_peak

ROWS = 8192
PEERS = ("torch", "numpy", "representation-geometry")


def make_layers(dim: int, layers: int) -> list[np.ndarray]:
    """Standard normal rows, another draw per layer."""
    return [
        np.random.default_rng(seed).standard_normal((ROWS, dim), dtype=np.float32) for seed in range(layers)
    ]


def make_calls(arrays: list[np.ndarray], threads: int) -> dict[str, Callable[[], object]]:
    """One update of every layer, by each program."""
    dim = arrays[0].shape[1]
    names = [str(layer) for layer in range(len(arrays))]
    bank = rg.CovarianceBank(dict.fromkeys(names, dim), threads=threads)
    half = rg.CovarianceBank(dict.fromkeys(names, dim), threads=threads)
    tensors = [torch.from_numpy(array) for array in arrays]
    halves = [tensor.bfloat16() for tensor in tensors]
    sums = [torch.zeros(dim, dim) for _ in arrays]
    peers = [RunningCovariance(dim, sample_limit=0) for _ in arrays]
    return {
        "repgeom": lambda: bank.update(dict(zip(names, arrays, strict=True))),
        "repgeom bf16": lambda: half.update(dict(zip(names, halves, strict=True))),
        "torch": lambda: [c.addmm_(x.T, x) for c, x in zip(sums, tensors, strict=True)],
        "numpy": lambda: [x.T @ x for x in arrays],
        "representation-geometry": lambda: [p.update(x) for p, x in zip(peers, tensors, strict=True)],
    }


def check_answers(array: np.ndarray, threads: int) -> None:
    """All programs agree on this array within float32 rounding, and repgeom within its bound of float64."""
    dim = array.shape[1]
    ours = rg.Covariance(dim, threads=threads).update(array)
    columns = np.random.default_rng(0).choice(dim, 64, replace=False)
    exact = np.cov(array[:, columns].astype(np.float64), rowvar=False)
    error = np.abs(ours.covariance()[np.ix_(columns, columns)] - exact)
    bound = ours.error_bound()[columns]
    assert not (error > np.outer(bound, bound)).any(), "repgeom is outside its error bound"
    products = torch.zeros(dim, dim).addmm_(torch.from_numpy(array).T, torch.from_numpy(array)).numpy()
    offset = ROWS * np.outer(ours.mean, ours.mean)
    peer = RunningCovariance(dim, sample_limit=0)
    peer.update(torch.from_numpy(array))
    answers = {
        "torch": (products - offset) / (ROWS - 1),
        "numpy": (array.T @ array - offset) / (ROWS - 1),
        "representation-geometry": peer.covariance().numpy(),
    }
    for name, answer in answers.items():
        assert np.allclose(answer, ours.covariance(), rtol=1e-3, atol=1e-4), f"{name} disagrees"


@pytest.mark.parametrize("dim", [768, 2048])
@pytest.mark.parametrize("program", ["repgeom", "repgeom bf16", *PEERS])
def test_covariance_update(benchmark, dim: int, program: str) -> None:
    benchmark.group = f"covariance update, {ROWS} x {dim}"
    threads = torch.get_num_threads()
    arrays = make_layers(dim, 1)
    check_answers(arrays[0], threads)
    benchmark(make_calls(arrays, threads)[program])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[768, 2048, 4096])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peak = multiply_add_peak(args.threads)
    print(f"{machine()}; {args.threads} threads; fp32 multiply-add peak {peak / 1e9:.0f} GFLOP/s")
    print(f"One update of {ROWS} fp32 rows; flops counted as n d^2; medians of {args.repeats}.\n")
    print(
        "| d | layers | repgeom | GFLOP/s | of peak | bf16 / fp32 | vs torch | vs NumPy "
        "| vs representation-geometry |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for dim in args.dims:
        check_answers(make_layers(dim, 1)[0], args.threads)
        for layers in args.layers:
            repeats = args.repeats if layers == 1 else max(3, args.repeats // 2)
            times = medians(make_calls(make_layers(dim, layers), args.threads), repeats)
            ours = times["repgeom"]
            rate = layers * ROWS * dim * dim / ours
            ratios = " | ".join(f"{times[peer] / ours:.1f}x" for peer in PEERS)
            share, half = rate / peak, times["repgeom bf16"] / ours
            print(
                f"| {dim} | {layers} | {ours * 1e3:.1f} ms | {rate / 1e9:.0f} | {share:.0%} "
                f"| {half:.2f} | {ratios} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

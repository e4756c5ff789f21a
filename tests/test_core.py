"""The compiled module called directly, past the Python layer: error texts, the GIL, random bits, the stub."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repgeom import _core

STUB = Path(__file__).parents[1] / "python" / "repgeom" / "_core.pyi"


# --- random bits


# Random123, kat_vectors, philox 4x32 of 10 rounds; of the four words the generator gives the first two.
KNOWN_ANSWERS = [
    (0, 0, 0, 0xE169C58D6627E8D5),
    (2**64 - 1, 2**64 - 1, 2**64 - 1, 0x41C83B0E408F276D),
    (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88, 0x94FDCCEBD16CFE09),
]


@pytest.mark.parametrize(("seed", "stream", "index", "expected"), KNOWN_ANSWERS)
def test_random_bits_are_those_of_random123(seed: int, stream: int, index: int, expected: int):
    bits = _core.random_bits(seed, stream, index, 1)
    assert bits.dtype == np.uint64
    assert bits.tolist() == [expected]


def test_random_bits_depend_on_the_index_alone():
    whole = _core.random_bits(7, 3, 0, 1000)
    for start, count in ((0, 1), (1, 999), (500, 500), (999, 1), (1000, 0)):
        assert np.array_equal(_core.random_bits(7, 3, start, count), whole[start : start + count])


def test_random_bits_cross_the_word_and_come_round():
    around = _core.random_bits(1, 2, 2**32 - 2, 4)
    assert around.tolist() == [_core.random_bits(1, 2, 2**32 - 2 + i, 1).item() for i in range(4)]
    last = _core.random_bits(1, 2, 2**64 - 1, 2)
    assert last[1] == _core.random_bits(1, 2, 0, 1)[0]


def test_seeds_and_streams_are_different_numbers():
    drawn = [_core.random_bits(seed, stream, 0, 100) for seed in (0, 1, 2**40) for stream in (0, 1, 2**40)]
    assert len(np.unique(np.concatenate(drawn))) == 900


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_random_bits_are_uniform(seed: int):
    n = 20_000
    bits = _core.random_bits(seed, 0, 0, n)
    steps = np.arange(1, n + 1) / n
    distance = np.abs(np.sort(bits / 2.0**64) - steps).max()
    assert distance <= 1.95 / np.sqrt(n), "Kolmogorov and Smirnov at one in a thousand"
    share = [((bits >> np.uint64(bit)) & np.uint64(1)).mean() for bit in range(64)]
    assert np.abs(np.array(share) - 0.5).max() <= 4 * 0.5 / np.sqrt(n)
    assert abs(np.corrcoef(bits[:-1] / 2.0**64, bits[1:] / 2.0**64)[0, 1]) <= 4 / np.sqrt(n)


def test_bad_random_arguments_are_refused():
    with pytest.raises(ValueError, match=r"^count must not be negative, got -1$"):
        _core.random_bits(0, 0, 0, -1)
    with pytest.raises(TypeError):
        _core.random_bits(-1, 0, 0, 1)


# --- the machine


def test_the_machine():
    sets = _core.instruction_sets()
    assert sets
    assert len(set(sets)) == len(sets)
    assert sets[0] in {"baseline", "neon"}
    assert set(sets[1:]) <= {"avx2", "avx512"}
    assert _core.cuda_available() is False


@pytest.mark.parametrize("instruction_set", ["", *_core.instruction_sets()])
def test_the_floor_of_benchmarks_counts_its_flops(instruction_set: str):
    one, ten = (_core.multiply_add_loop(n, instruction_set) for n in (100, 1000))
    assert ten == 10 * one > 0


def default_threads(**variables: str) -> int:
    kept = {k: v for k, v in os.environ.items() if k not in {"REPGEOM_NUM_THREADS", "OMP_NUM_THREADS"}}
    program = "from repgeom import _core; print(_core.default_threads())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**kept, **variables}, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_default_threads_follow_the_environment():
    assert default_threads(REPGEOM_NUM_THREADS="3", OMP_NUM_THREADS="7") == 3
    assert default_threads(OMP_NUM_THREADS="7") == 7
    assert default_threads(REPGEOM_NUM_THREADS="0", OMP_NUM_THREADS="7") == 7
    assert default_threads(REPGEOM_NUM_THREADS="all") == default_threads() >= 1


# --- updates


def update(moments: list[Any], arrays: list[Any], **changes: Any) -> list[int]:
    arguments = {
        "cross": [],
        "weights": None,
        "threads": 2,
        "instruction_set": "",
        "run": 512,
        "workspace": _core.Workspace(),
    }
    return _core.update_moments(moments=moments, arrays=arrays, **{**arguments, **changes})


@contextmanager
def refused(error: type[Exception], text: str) -> Iterator[None]:
    with pytest.raises(error) as caught:
        yield
    assert str(caught.value) == text


SETS = " ".join(_core.instruction_sets())
BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "arrays": ({"arrays": []}, "one array per Covariance is needed, got 0"),
    "cross": ({"cross": [np.ones((4, 2))] * 2}, "one cross array per Covariance is needed, got 2"),
    "short run": ({"run": 0}, "run must be from 1 to 4096, got 0"),
    "long run": ({"run": 4097}, "run must be from 1 to 4096, got 4097"),
    "threads": ({"threads": 0}, "threads must be at least 1, got 0"),
    "set": (
        {"instruction_set": "mmx"},
        f"instruction set must be one of those that run here: {SETS}, got mmx",
    ),
    "float32 weights": ({"weights": np.ones(4, np.float32)}, "weights must be float64, got another type"),
    "strided weights": ({"weights": np.ones(8)[::2]}, "weights must be contiguous (stride 1), got 2"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused(case: str):
    changes, text = BAD_CALLS[case]
    moments = _core.Moments(3)
    with refused(ValueError, text):
        update(**{"moments": [moments], "arrays": [np.ones((4, 3))], **changes})
    assert moments.count == 0


def test_one_statistic_twice_is_refused():
    moments = _core.Moments(3)
    with refused(ValueError, "each Covariance must appear once in a call, got one of them twice"):
        update([moments, moments], [np.ones((4, 3))] * 2)
    assert moments.count == 0


def test_an_unaligned_stride_is_refused():
    records = np.zeros(4, np.dtype([("x", np.float32, (3,)), ("flag", np.int8)]))
    with refused(ValueError, "x must have strides of whole elements, got 13"):
        update([_core.Moments(3)], [records["x"]])


def test_dropped_rows_are_returned_by_layer():
    bad = np.ones((5, 3))
    bad[[0, 4]] = np.nan
    assert update([_core.Moments(3), _core.Moments(3)], [bad, np.ones((2, 3))]) == [2, 0]
    assert update([], []) == []


@pytest.mark.parametrize("run", [1, 7, 512, 4096])
def test_the_length_of_a_run_keeps_the_answer(run: int):
    x = np.random.default_rng(0).normal(size=(999, 33)).astype(np.float32)
    moments = _core.Moments(33)
    update([moments], [x], run=run)
    np.testing.assert_allclose(moments.covariance(), np.cov(x.astype(np.float64), rowvar=False), atol=1e-5)


def test_a_workspace_grows_and_stays():
    workspace = _core.Workspace()
    assert workspace.bytes == 0
    update([_core.Moments(3)], [np.ones((600, 3))], workspace=workspace)
    small = workspace.bytes
    assert small >= 600 * 3 * 8
    update([_core.Moments(64)], [np.ones((600, 64))], workspace=workspace)
    large = workspace.bytes
    update([_core.Moments(3)], [np.ones((600, 3))], workspace=workspace)
    assert large > small
    assert workspace.bytes == large


# --- the GIL


@contextmanager
def counting_thread() -> Iterator[Callable[[], int]]:
    """A thread that counts whenever it gets the GIL, which here changes hands only when it is given away."""
    count, stop = 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)

    thread, interval = threading.Thread(target=work), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread.start()
    try:
        yield lambda: count
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()


def progress_during(work: Callable[[], Any], attempts: int) -> bool:
    with counting_thread() as count:
        for _ in range(attempts):
            before = count()
            work()
            if count() > before:
                return True
    return False


def test_an_update_gives_the_gil_away():
    x = np.random.default_rng(0).normal(size=(2000, 400))
    moments = _core.Moments(400)
    assert not progress_during(lambda: sum(range(300_000)), attempts=5), "the check itself does not work"
    assert progress_during(lambda: update([moments], [x], threads=1), attempts=20)
    wide = _core.Moments(1500)
    update([wide], [np.ones((2, 1500))])
    assert progress_during(wide.covariance, attempts=50)
    assert progress_during(lambda: wide.merge(wide), attempts=50)


# --- the stub


def stub_alone(folder: Path) -> Path:
    """A package of the stub alone: the real ``__init__`` would have mypy read all of torch."""
    package = folder / "stubs" / "repgeom"
    package.mkdir(parents=True)
    (package / "__init__.pyi").touch()
    shutil.copy(STUB, package)
    return package.parent


def test_the_stub_agrees_with_the_module(tmp_path: Path):
    # Classes of pybind11 have a metaclass that no stub can name. Their members are compared all the same.
    allowed = tmp_path / "allowed.txt"
    classes = ("Moments", "Workspace", "KrylovSpace", "CovarianceSketch")
    allowed.write_text("".join(f"repgeom._core.{name}\n" for name in classes), encoding="utf-8")
    command = [sys.executable, "-m", "mypy.stubtest", "repgeom._core", "--allowlist", str(allowed)]
    environment = {**os.environ, "MYPYPATH": str(stub_alone(tmp_path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success: no issues found in 1 module" in done.stdout


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_stub_names_everything():
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    members = {
        node.name: {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions | set(members) == public(vars(_core))
    for name, inside in members.items():
        assert public(inside) == public(vars(getattr(_core, name))), name

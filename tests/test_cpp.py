"""Builds the C++ tests, with warnings as errors, and runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cpp-tests"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}", pytrace=False)


def test_the_core_in_cpp():
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
        "REPGEOM_PYTHON": "OFF",
        "REPGEOM_TESTS": "ON",
        "REPGEOM_WERROR": "ON",
    }
    definitions = [f"-D{name}={value}" for name, value in settings.items()]
    run("cmake", "-S", ROOT, "-B", BUILD, *generator, *definitions)
    run("cmake", "--build", BUILD, "--parallel", "2")
    run("ctest", "--test-dir", BUILD, "--output-on-failure", "--no-tests=error")

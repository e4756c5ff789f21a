"""What may import what: read from the source with ``ast``, and seen in fresh interpreters."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import repgeom

PACKAGE = Path(__file__).parents[1] / "python" / "repgeom"
HEAVY = {"torch", "transformers", "pandas"}

# Every room of the package; a room imports only rooms above it. A folder is one room.
ORDER = [
    *("_core", "demo", "checks", "threads", "memory", "arrays", "interrupts", "artifact"),
    # models
    *("probe", "arguments", "stacks", "readout", "towers", "anatomy", "models"),
    *("additions", "branches", "sites", "capture", "padding"),
    # tokens
    *("tokens", "positions", "documents", "windows", "text", "dataloaders", "equal_lengths"),
    # statistics and measurements on arrays
    *("eigensolver", "sketches", "covariance_sketch", "covariance", "device_moments", "layer_moments"),
    *("spectrum", "standard_errors", "sample", "similarity", "routing"),
    *("neighbors", "estimates", "neighborhoods", "two_nn", "gride", "decimation", "local_dimension"),
    *("dimension", "layer_pairs", "neighbor_overlap", "information_imbalance", "coordinate_imbalance"),
    *("comparisons", "matching", "resampling", "gram", "hsic", "cka", "streaming_cka", "exact_cka"),
    *("canonical_correlation", "procrustes", "rsa", "layer_subspaces"),
    *("vectorizations", "diagrams", "diagram_distances", "clouds", "landmarks", "found_diagrams", "homology"),
    *("homology_samples", "homology_statistics", "homology_differences", "homology_gradients"),
    "homology_plots",
    *("estimators", "tensor_modules"),
    *("sampling", "rows", "removed", "pooling", "shards", "stored", "vllm"),
    # one pass over a model or over stored activations
    *("routers", "routed", "collect", "registry", "readings", "point_sets"),
    *("spectral_metrics", "neighbor_metrics", "similarity_metrics", "homology_metrics", "metrics"),
    *("frames", "results", "compare", "metadata", "outcome", "request", "measurand", "source", "prepare"),
    *("plan", "analysis", "stored_analysis", "smoke"),
    *("summary", "plots", "similarity_plots", "figures", "cli", "__main__"),
]
RANK = {room: rank for rank, room in enumerate(ORDER)}

# Kernels and measurements: usable on arrays alone, with no model in sight.
ON_ARRAYS = [
    "arrays",
    "covariance",
    "eigensolver",
    "sketches",
    "covariance_sketch",
    "spectrum",
    "standard_errors",
    "sample",
    "similarity",
    "routing",
    "neighbors",
    "dimension",
    "neighbor_overlap",
    "information_imbalance",
    "coordinate_imbalance",
    *("cka", "streaming_cka", "exact_cka", "canonical_correlation", "procrustes", "rsa", "layer_subspaces"),
    "homology",
    "diagrams",
    "homology_differences",
    "homology_gradients",
    "homology_plots",
    "estimators",
    "registry",
    "results",
]
ABOUT_MODELS = {
    *("probe", "arguments", "stacks", "readout", "towers", "anatomy", "models"),
    *("additions", "branches", "sites", "capture", "padding", "routers", "routed"),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def names_of_package(node: ast.AST) -> list[str]:
    """Dotted names inside the package that an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] == "repgeom"]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: imports are written in full"
        if node.module == "repgeom":
            return [f"repgeom.{alias.name}" for alias in node.names]
        if node.module is not None and node.module.split(".")[0] == "repgeom":
            return [node.module]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "repgeom":
        return [f"repgeom.{node.attr}"]
    return []


def imported_rooms(tree: ast.Module) -> set[str]:
    """Rooms that a file asks for, anywhere in it; a public name counts as the room it lives in."""
    parts = [name.split(".")[1] for node in ast.walk(tree) for name in names_of_package(node) if "." in name]
    return {repgeom._HOME.get(part, part) for part in parts} - {"__version__"}


def top_level_packages(tree: ast.Module) -> set[str]:
    """Packages imported when the module is: not those inside functions or under TYPE_CHECKING."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.split(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_every_room_has_its_place():
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms >= {"arrays", "covariance", "demo"}, "the sources have not been found"
    unknown = sorted(rooms - set(ORDER))
    assert not unknown, f"place {unknown} in ORDER of tests/test_imports.py, below all that they import"
    assert len(set(ORDER)) == len(ORDER)


def test_imports_run_downwards():
    upwards = []
    for path, tree in sources().items():
        room = room_of(path)
        if room == "__init__":
            continue
        # A room that is missing from the table is the affair of the test above.
        highest = RANK.get(room, len(ORDER))
        upwards += [
            f"{path.relative_to(PACKAGE)} -> {other}"
            for other in sorted(imported_rooms(tree) - {room})
            if RANK.get(other, -1) >= highest or other not in RANK
        ]
    assert not upwards, f"imports that run upwards or leave the table: {upwards}"


def test_the_reader_of_imports_sees_them():
    text = """
import repgeom
from repgeom import _core, __version__
from repgeom.capture import capture
def f():
    import repgeom.models
    return repgeom.spectrum
"""
    assert imported_rooms(ast.parse(text)) == {"_core", "capture", "models", "spectrum"}
    text = "import torch.nn\nif TYPE_CHECKING:\n    import pandas\nwith x:\n    import jax"
    assert top_level_packages(ast.parse(text)) == {"torch", "jax"}
    assert top_level_packages(ast.parse("def f():\n    import os")) == set()


@pytest.mark.parametrize("room", ON_ARRAYS)
def test_measurements_know_nothing_of_models(room: str):
    tree = sources()[PACKAGE / f"{room}.py"]
    assert not top_level_packages(tree) & {"torch", "transformers"}
    assert not imported_rooms(tree) & ABOUT_MODELS


def test_nobody_imports_the_command_line():
    users = {room_of(path) for path, tree in sources().items() if "cli" in imported_rooms(tree)}
    assert users <= {"__main__"}


def loaded_after(statements: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh interpreter."""
    program = (
        f"import json, sys\n{statements}\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_is_light():
    loaded = loaded_after("import repgeom\ndir(repgeom)\nrepgeom.__version__")
    assert "repgeom" in loaded
    assert not loaded & HEAVY
    assert "numpy" not in loaded


def test_kernels_load_neither_torch_nor_pandas():
    statements = "import repgeom as rg\nrg.Covariance(2), rg.CovarianceBank, rg.cuda_available(), rg.spectrum"
    loaded = loaded_after(statements)
    assert "numpy" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("room", ON_ARRAYS)
def test_a_room_on_arrays_loads_no_torch(room: str):
    loaded = loaded_after(f"import repgeom.{room}")
    assert not loaded & {"torch", "transformers"}


def test_the_command_line_is_light():
    assert not loaded_after("import repgeom.cli") & {"torch", "transformers"}


@pytest.mark.parametrize("name", repgeom.__all__)
def test_every_public_name_resolves(name: str):
    assert getattr(repgeom, name) is not None
    assert name in dir(repgeom)


def test_the_names_for_type_checkers_are_the_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.asname: node.module for node in block.body for alias in node.names}
    assert declared == {name: f"repgeom.{home}" for name, home in repgeom._HOME.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'repgeom' has no attribute 'nothing'"):
        _ = repgeom.nothing

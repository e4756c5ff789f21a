"""Results of a run and their folder on disk.

A folder (schema 1.0) holds tables (CSV or strict JSON), ``eigenvalues.npz``, ``arrays.safetensors`` and
``metadata.json``, which lists every other file with its SHA-256 and every column with its dtype, so that
:func:`load_results` gives back what was saved. Nothing is pickled. A folder is written beside its place under
a temporary name and then renamed: whatever happens, the place holds the old artifact, the new one, or nothing
yet.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SCHEMA_VERSION: Final = "1.0"
SAVE_MODES: Final = ("bundle", "csv", "json")
_RESERVED: Final = ("files", "tables")
_MAIN: Final = ("metrics", "novelty", "router")


def _no_rows() -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame()
    return frame


@dataclasses.dataclass(eq=False)
class AnalysisResults:
    """Tables, arrays and settings of one run.

    Attributes:
        metrics: One row per layer.
        novelty: One row per pair of consecutive layers.
        router: One row per mixture-of-experts layer; empty for other models.
        diagnostics: Further tables by name.
        eigenvalues: ``"layer_%02d"`` to ``[d]`` eigenvalues, descending.
        metadata: Settings and counts, JSON values; ``artifact_schema_version`` is always there.
        artifact_dir: Where it was saved to or loaded from.
        arrays: Means, eigenvectors, token sample and so on, by names such as ``"mean.layer_00"``.
    """

    metrics: pd.DataFrame = dataclasses.field(default_factory=_no_rows)
    novelty: pd.DataFrame = dataclasses.field(default_factory=_no_rows)
    router: pd.DataFrame = dataclasses.field(default_factory=_no_rows)
    diagnostics: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    eigenvalues: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    artifact_dir: Path | None = None
    arrays: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metadata = {"artifact_schema_version": SCHEMA_VERSION, **self.metadata}

    def save(
        self,
        *,
        save_dir: str | os.PathLike[str] | None = None,
        save_mode: str = "bundle",
        overwrite: bool = False,
    ) -> Path:
        """Write the folder and return its absolute path (also kept in ``artifact_dir``).

        Args:
            save_dir: The folder; by default ``metadata["run_name"]`` or ``repgeom-run`` in the current
                folder.
            save_mode: ``"bundle"``: CSV tables, eigenvalues, arrays; ``"csv"``: without arrays; ``"json"``:
                tables as JSON (NaN and inf become null, read back as NaN), without arrays.
            overwrite: Replace an artifact of repgeom that is there already, with everything in its folder.

        Raises:
            ValueError: Another mode, a name or value that cannot be stored.
            OSError: As :func:`check_writable`; the disk is full.
        """
        mode = save_mode.lower()
        if mode not in SAVE_MODES:
            raise ValueError(f"save_mode must be one of {', '.join(SAVE_MODES)}, got {save_mode!r}")
        target = check_writable(self._default_dir() if save_dir is None else save_dir, overwrite)
        with _replacing(target, overwrite) as folder:
            _write_artifact(self, folder, mode)
        self.artifact_dir = target
        return target

    def _default_dir(self) -> Path:
        name = str(self.metadata.get("run_name") or "").replace("/", "_").replace("\\", "_").strip(". ")
        return Path(name or "repgeom-run")

    def to_dict(self) -> dict[str, Any]:
        """The tables as lists of records and the metadata; no arrays."""
        tables = {name: getattr(self, name).to_dict("records") for name in _MAIN}
        diagnostics = {name: frame.to_dict("records") for name, frame in self.diagnostics.items()}
        return {**tables, "diagnostics": diagnostics, "metadata": dict(self.metadata)}


def load_results(folder: str | os.PathLike[str]) -> AnalysisResults:
    """Read back what :meth:`AnalysisResults.save` wrote: equal values, equal dtypes.

    Raises:
        ValueError: No artifact there, a file that is missing, changed or unreadable, or a schema of another
            major version; the message names the file.
    """
    root = Path(folder).resolve()
    envelope = _read_envelope(root)
    for entry in envelope["files"]:
        _verify(root, entry)
    names = {entry["name"] for entry in envelope["files"]}
    tables = {name: _read_table(root, table) for name, table in envelope["tables"].items()}
    diagnostics = {name[12:]: tables[name] for name in tables if name.startswith("diagnostics/")}
    return AnalysisResults(
        metrics=tables["metrics"],
        novelty=tables["novelty"],
        router=tables["router"],
        diagnostics=diagnostics,
        eigenvalues=_read_npz(root / "eigenvalues.npz") if "eigenvalues.npz" in names else {},
        metadata={key: value for key, value in envelope.items() if key not in _RESERVED},
        artifact_dir=root,
        arrays=_read_safetensors(root / "arrays.safetensors") if "arrays.safetensors" in names else {},
    )


# --- the place ---


def check_writable(folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Return the absolute path of ``folder`` if an artifact may be written there; nothing is created.

    Raises:
        FileExistsError: It is a file, or a folder that is not empty (with ``overwrite``: that is no
            artifact).
        NotADirectoryError: One of its parents is a file.
        PermissionError: No right to write there.
        ValueError: It is the current folder or a mount point, which cannot be replaced in one step.
    """
    target = Path(folder).expanduser().resolve()
    parent = next(path for path in target.parents if os.path.lexists(path))
    if not parent.is_dir():
        raise NotADirectoryError(f"cannot write to {target}: {parent} is a file, choose another folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {target}: no permission in {parent}.")
    if os.path.lexists(target):
        _check_replaceable(target, overwrite)
    return target


def _check_replaceable(target: Path, overwrite: bool) -> None:
    if not target.is_dir():
        raise FileExistsError(f"cannot write to {target}: it is a file, choose another folder.")
    if target == Path.cwd() or target.is_mount():
        raise ValueError(f"cannot replace {target} itself: choose a folder in it, such as {target / 'run'}.")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{target} holds another run: choose another folder (--out) or overwrite it.")
    if not _is_artifact(target):
        raise FileExistsError(
            f"{target} holds other files than an artifact of repgeom: choose another folder."
        )


def _is_artifact(folder: Path) -> bool:
    try:
        _read_envelope(folder, any_version=True)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside ``target``: it takes its place at the end, or goes on any exception."""
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except PermissionError as error:
        raise PermissionError(f"cannot write to {target}: no permission in {target.parent}.") from error
    try:
        yield staging
        _sync(staging)
        # Someone may have written there since the run began.
        check_writable(target, overwrite)
        _put(staging, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(staging: Path, target: Path) -> None:
    """Move ``staging`` to ``target``; an artifact that was there is left in ``staging``."""
    if not target.is_dir() or not any(target.iterdir()):
        staging.rename(target)
    elif not _exchange(staging, target):
        aside = staging.with_suffix(".old")
        try:
            target.rename(aside)
            staging.rename(target)
        except BaseException:
            if aside.exists() and not target.exists():
                aside.rename(target)
            raise
        aside.rename(staging)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    name, flag = {"linux": ("renameat2", 2), "darwin": ("renameatx_np", 2)}.get(sys.platform, ("", 0))
    function = getattr(ctypes.CDLL(None), name, None) if name else None
    if function is None:
        return False
    # -2 on darwin, -100 on linux: "relative to the current folder"; both paths are absolute.
    here = -100 if sys.platform == "linux" else -2
    return bool(function(here, os.fsencode(left), here, os.fsencode(right), flag) == 0)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- writing ---


def _write_artifact(results: AnalysisResults, folder: Path, mode: str) -> None:
    clash = [key for key in _RESERVED if key in results.metadata]
    if clash:
        raise ValueError(f"metadata must not use the keys {', '.join(_RESERVED)}, got {clash}")
    tables = {}
    for name, frame in _tables(results).items():
        # As the peer: a table of routers exists only where there are routers.
        file = None if name == "router" and frame.empty else f"{name}.{'json' if mode == 'json' else 'csv'}"
        columns = [_column_schema(name, frame, column) for column in frame]
        tables[name] = {"file": file, "columns": columns}
        if file is not None:
            _write_table(folder / file, frame, columns)
    if results.eigenvalues:
        np.savez_compressed(folder / "eigenvalues.npz", allow_pickle=False, **_plain(results.eigenvalues))
    if results.arrays and mode == "bundle":
        _write_safetensors(folder / "arrays.safetensors", _plain(results.arrays))
    files = [_describe(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    envelope = {
        **results.metadata,
        "artifact_schema_version": SCHEMA_VERSION,
        "files": files,
        "tables": tables,
    }
    _write_text(folder / "metadata.json", _strict_json(envelope))


def _tables(results: AnalysisResults) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = {name: getattr(results, name) for name in _MAIN}
    for name, frame in results.diagnostics.items():
        if not name or name != PurePosixPath(name).name or name.startswith("."):
            raise ValueError(f"the name of a diagnostic must be a plain file name, got {name!r}")
        tables[f"diagnostics/{name}"] = frame
    return tables


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _describe(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    return {"name": name, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _strict_json(value: Any) -> str:
    return json.dumps(_json_value(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_value(value: Any) -> Any:
    """JSON's own types; NaN and inf become null, what JSON does not know becomes text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _plain(arrays: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """C-ordered copies where needed; safetensors writes other layouts wrongly."""
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"array {name!r} must hold numbers or booleans, got dtype {array.dtype}")
    return plain


def _write_safetensors(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path)


# --- tables ---


def _column_schema(table: str, frame: pd.DataFrame, column: Any) -> dict[str, Any]:
    """Name, dtype, how a cell is written, and the rows without a value where the dtype does not show them."""
    if not isinstance(column, str) or list(frame.columns).count(column) != 1:
        raise ValueError(f"columns of table {table!r} must be distinct strings, got {column!r}")
    series = frame[column]
    kind = getattr(series.dtype, "kind", "O") if isinstance(series.dtype, np.dtype) else "O"
    schema: dict[str, Any] = {"name": column, "dtype": str(series.dtype)}
    if kind in "fiub":
        return {**schema, "cells": {"f": "float", "b": "bool"}.get(kind, "int")}
    missing = np.flatnonzero(series.isna().to_numpy())
    text = all(isinstance(cell, str) for cell in series[series.notna()])
    return {**schema, "cells": "text" if text else "json", "missing": missing.tolist()}


def _write_table(path: Path, frame: pd.DataFrame, schemas: list[dict[str, Any]]) -> None:
    columns = [_encode(frame[schema["name"]], schema) for schema in schemas]
    names = [schema["name"] for schema in schemas]
    if path.suffix == ".json":
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        _write_text(path, _strict_json(rows))
        return
    lines = [",".join(map(_csv_field, row)) for row in [names, *zip(*columns, strict=True)]]
    _write_text(path, "\n".join(lines) + "\n")


def _encode(series: pd.Series[Any], schema: Mapping[str, Any]) -> list[Any]:
    cells = series.tolist()
    if schema["cells"] in ("float", "int", "bool"):
        return cells
    missing = set(schema["missing"])
    if schema["cells"] == "json":
        cells = [
            None if row in missing else json.dumps(_json_value(cell), ensure_ascii=False)
            for row, cell in enumerate(cells)
        ]
    return [None if row in missing else cell for row, cell in enumerate(cells)]


def _csv_field(cell: Any) -> str:
    """RFC 4180; NaN and missing cells are empty, floats have as many digits as they need to come back."""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(cell)
    if not isinstance(cell, str):
        return "" if cell is None else str(cell)
    quoted = cell == "" or any(mark in cell for mark in ',"\r\n')
    return '"' + cell.replace('"', '""') + '"' if quoted else cell


def _read_table(root: Path, table: Mapping[str, Any]) -> pd.DataFrame:
    schemas = table["columns"]
    names = [schema["name"] for schema in schemas]
    path = None if table["file"] is None else root / table["file"]
    try:
        rows = [] if path is None or not names else _read_rows(path, names)
        columns = {
            schema["name"]: _decode([row[i] for row in rows], schema) for i, schema in enumerate(schemas)
        }
    except (ValueError, TypeError, KeyError, IndexError, csv.Error) as error:
        raise ValueError(f"{path} is not the table its metadata describes: {error}") from error
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _read_rows(path: Path, names: list[str]) -> list[list[Any]]:
    if path.suffix == ".json":
        return [[row[name] for name in names] for row in json.loads(path.read_text(encoding="utf-8"))]
    with path.open(encoding="utf-8", newline="") as file:
        # A blank line is one empty cell: csv.reader gives [] for it.
        rows: list[list[Any]] = [row or [""] for row in csv.reader(file)]
    if not rows or rows[0] != names:
        raise ValueError(f"the header must be {names}, got {rows[:1]}")
    return rows[1:]


def _decode(cells: list[Any], schema: Mapping[str, Any]) -> pd.Series[Any]:
    kind, dtype = schema["cells"], schema["dtype"]
    if kind == "float":
        values: list[Any] = [math.nan if cell in ("", None) else float(cell) for cell in cells]
    elif kind == "int":
        values = [int(cell) for cell in cells]
    elif kind == "bool":
        values = [{"True": True, "False": False}[str(cell)] for cell in cells]
    else:
        missing = set(schema["missing"])
        values = [
            None if row in missing else json.loads(cell) if kind == "json" else cell
            for row, cell in enumerate(cells)
        ]
    if dtype == "str" and int(pd.__version__.split(".", maxsplit=1)[0]) < 3:
        dtype = "object"
    series: pd.Series[Any] = pd.Series(values, dtype=object).astype(dtype)
    return series


# --- reading ---


def _read_envelope(root: Path, any_version: bool = False) -> dict[str, Any]:
    path = root / "metadata.json"
    if not path.is_file():
        raise ValueError(f"no artifact of repgeom in {root}: {path.name} is missing")
    try:
        envelope = json.loads(path.read_text(encoding="utf-8"))
        version = str(envelope["artifact_schema_version"])
        major = int(version.split(".", maxsplit=1)[0])
        complete = all(key in envelope for key in _RESERVED) and {*_MAIN} <= {*envelope["tables"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the metadata of an artifact: {error!r}") from error
    if major != int(SCHEMA_VERSION.split(".")[0]) and not any_version:
        raise ValueError(f"{path} has schema version {version}, this repgeom reads {SCHEMA_VERSION}")
    if not complete:
        raise ValueError(f"{path} is not the metadata of an artifact of repgeom: no list of files")
    return dict(envelope)


def _verify(root: Path, entry: Mapping[str, Any]) -> None:
    name = PurePosixPath(entry["name"])
    path = root / name
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{root / 'metadata.json'} names a file outside the artifact: {entry['name']}")
    if not path.is_file():
        raise ValueError(f"{path} is missing from the artifact")
    if _sha256(path) != entry["sha256"]:
        raise ValueError(f"{path} is not the file that was saved: its SHA-256 differs")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error

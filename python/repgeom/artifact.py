"""The folder of a run: its place, its files, and the metadata that vouches for them.

A folder is written beside its place under a temporary name and then renamed: whatever happens, the place
holds the old artifact, the new one, or nothing yet. ``metadata.json`` lists every other file with its SHA-256
and every column of the tables with its dtype. JSON is strict, nothing is pickled.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from numpy.typing import NDArray

SCHEMA_VERSION: Final = "1.0"
RESERVED_KEYS: Final = ("files", "tables")
MAIN_TABLES: Final = ("metrics", "novelty", "router")


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
    if not _is_artifact(target):
        raise FileExistsError(f"{target} holds files that are not results of repgeom: choose another folder.")
    if not overwrite:
        raise FileExistsError(
            f"{target} holds another run: choose another folder, or replace it "
            "with overwrite=True (--overwrite)."
        )


def _is_artifact(folder: Path) -> bool:
    try:
        read_envelope(folder, any_version=True)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def replacing(target: Path, overwrite: bool) -> Iterator[Path]:
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


# --- files ---


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, on the disk when this returns; the folder is made if need be."""
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


def strict_json(value: Any) -> str:
    """JSON text of :func:`json_value`."""
    return json.dumps(json_value(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_value(value: Any) -> Any:
    """JSON's own types; NaN and inf become null, what JSON does not know becomes text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


# --- arrays ---


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays of numbers as a compressed ``.npz``."""
    np.savez_compressed(path, allow_pickle=False, **_plain(arrays))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read what :func:`write_npz` wrote; a ``ValueError`` names a file that cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_safetensors(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays of numbers as ``.safetensors``."""
    from safetensors.numpy import save_file

    save_file(_plain(arrays), path)
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)  # the library makes it private


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read what :func:`write_safetensors` wrote; a ``ValueError`` names a file that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _plain(arrays: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """C-ordered copies where needed; safetensors writes other layouts wrongly."""
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"array {name!r} must hold numbers or booleans, got dtype {array.dtype}")
    return plain


# --- metadata ---


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse metadata with keys that the list of files and tables needs."""
    clash = [key for key in RESERVED_KEYS if key in metadata]
    if clash:
        raise ValueError(f"metadata must not use the keys {', '.join(RESERVED_KEYS)}, got {clash}")


def write_envelope(folder: Path, metadata: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Write ``metadata.json``: the metadata, what the tables hold, and every other file with its hash."""
    files = [_describe(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    envelope = {**metadata, "artifact_schema_version": SCHEMA_VERSION, "files": files, "tables": tables}
    write_text(folder / "metadata.json", strict_json(envelope))


def read_envelope(root: Path, any_version: bool = False) -> dict[str, Any]:
    """Read ``metadata.json``; a ``ValueError`` says why a folder is no artifact that can be read here."""
    path = root / "metadata.json"
    if not path.is_file():
        raise ValueError(f"no artifact of repgeom in {root}: {path.name} is missing")
    try:
        envelope = json.loads(path.read_text(encoding="utf-8"))
        version = str(envelope["artifact_schema_version"])
        major = int(version.split(".", maxsplit=1)[0])
        complete = all(key in envelope for key in RESERVED_KEYS) and {*MAIN_TABLES} <= {*envelope["tables"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the metadata of an artifact: {error!r}") from error
    if major != int(SCHEMA_VERSION.split(".")[0]) and not any_version:
        raise ValueError(f"{path} has schema version {version}, this repgeom reads {SCHEMA_VERSION}")
    if not complete:
        raise ValueError(f"{path} is not the metadata of an artifact of repgeom: no list of files")
    return dict(envelope)


def verify(root: Path, entry: Mapping[str, Any]) -> None:
    """Refuse (``ValueError``) a listed file that is outside the folder, missing or changed."""
    name = PurePosixPath(entry["name"])
    path = root / name
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{root / 'metadata.json'} names a file outside the artifact: {entry['name']}")
    if not path.is_file():
        raise ValueError(f"{path} is missing from the artifact")
    if _sha256(path) != entry["sha256"]:
        raise ValueError(f"{path} is not the file that was saved: its SHA-256 differs")

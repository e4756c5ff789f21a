"""Results of a run and their folder on disk.

A folder (schema 1.0) holds tables (CSV or strict JSON), ``eigenvalues.npz``, ``arrays.safetensors`` and
``metadata.json``, with which :func:`load_results` gives back what was saved.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pandas as pd
from numpy.typing import NDArray

from repgeom import artifact
from repgeom.frames import read_table, write_table

SAVE_MODES: Final = ("bundle", "csv", "json")
_EIGENVALUES: Final = "eigenvalues.npz"
_ARRAYS: Final = "arrays.safetensors"


def _no_rows() -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame()
    return frame


@dataclasses.dataclass(eq=False, repr=False)
class AnalysisResults:
    """Tables, arrays and settings of one run.

    Attributes:
        metrics: One row per layer.
        novelty: One row per pair of consecutive layers.
        router: One row per mixture-of-experts layer; empty for other models.
        diagnostics: Further tables by name.
        eigenvalues: ``"layer_%02d"`` to ``[d]`` eigenvalues, descending (of a sketch those it has).
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
        self.metadata = {"artifact_schema_version": artifact.SCHEMA_VERSION, **self.metadata}

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
            OSError: As :func:`repgeom.artifact.check_writable`; the disk is full.
        """
        mode = save_mode.lower()
        if mode not in SAVE_MODES:
            raise ValueError(f"save_mode must be one of {', '.join(SAVE_MODES)}, got {save_mode!r}")
        target = artifact.check_writable(
            default_folder(self.metadata.get("run_name")) if save_dir is None else save_dir, overwrite
        )
        with artifact.replacing(target, overwrite) as staging:
            _write_artifact(self, staging, mode)
        self.artifact_dir = target
        return target

    def __repr__(self) -> str:
        layers, where = len(self.metrics), self.artifact_dir or "not saved"
        tokens = self.metadata.get("tokens_observed", "?")
        return (
            f"AnalysisResults({self.metadata.get('model_id')!r}, layers={layers}, tokens={tokens}, {where})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The tables as lists of records and the metadata; no arrays."""
        tables = {name: getattr(self, name).to_dict("records") for name in artifact.MAIN_TABLES}
        diagnostics = {name: frame.to_dict("records") for name, frame in self.diagnostics.items()}
        return {**tables, "diagnostics": diagnostics, "metadata": dict(self.metadata)}


def default_folder(run_name: object) -> Path:
    """Where results go that were given no folder: one named after the run, inside the working directory."""
    name = str(run_name or "").replace("/", "_").replace("\\", "_").strip(". ")
    return Path(name or "repgeom-run")


def save_target(
    save_mode: str | None, save_dir: str | os.PathLike[str] | None, run_name: str | None, overwrite: bool
) -> tuple[str | None, Path | None]:
    """How and where a run that was asked for with these options is saved; (None, None) if it is not.

    Raises:
        ValueError: A mode that does not exist, or a place that cannot be written.
        FileExistsError: The folder holds another run.
    """
    if save_mode is not None and not isinstance(save_mode, str):
        raise ValueError(f"save_mode must be one of {SAVE_MODES}, got {save_mode!r}")
    mode = save_mode.lower() if save_mode is not None else ("bundle" if save_dir is not None else None)
    if mode is None:
        return None, None
    if mode not in SAVE_MODES:
        raise ValueError(f"save_mode must be one of {SAVE_MODES}, got {save_mode!r}")
    return mode, artifact.check_writable(Path(save_dir or default_folder(run_name)), overwrite)


def load_results(folder: str | os.PathLike[str]) -> AnalysisResults:
    """Read back what :meth:`AnalysisResults.save` wrote: equal values, equal dtypes.

    Raises:
        ValueError: No artifact there, a file that is missing, changed or unreadable, or a schema of another
            major version; the message names the file.
    """
    root = Path(folder).resolve()
    envelope = artifact.read_envelope(root)
    for entry in envelope["files"]:
        artifact.verify(root, entry)
    names = {entry["name"] for entry in envelope["files"]}
    tables = {name: read_table(root, table) for name, table in envelope["tables"].items()}
    diagnostics = {name[12:]: tables[name] for name in tables if name.startswith("diagnostics/")}
    return AnalysisResults(
        metrics=tables["metrics"],
        novelty=tables["novelty"],
        router=tables["router"],
        diagnostics=diagnostics,
        eigenvalues=artifact.read_npz(root / _EIGENVALUES) if _EIGENVALUES in names else {},
        metadata={key: value for key, value in envelope.items() if key not in artifact.RESERVED_KEYS},
        artifact_dir=root,
        arrays=artifact.read_safetensors(root / _ARRAYS) if _ARRAYS in names else {},
    )


def _write_artifact(results: AnalysisResults, folder: Path, mode: str) -> None:
    artifact.check_metadata(results.metadata)
    tables = {}
    for name, frame in _tables(results).items():
        # A file without a column could not be read by other programs; a router table only where routers are.
        absent = frame.columns.empty or (name == "router" and frame.empty)
        file = None if absent else f"{name}.{'json' if mode == 'json' else 'csv'}"
        tables[name] = write_table(folder, name, frame, file)
    if results.eigenvalues:
        artifact.write_npz(folder / _EIGENVALUES, results.eigenvalues)
    if results.arrays and mode == "bundle":
        artifact.write_safetensors(folder / _ARRAYS, results.arrays)
    artifact.write_envelope(folder, results.metadata, tables)


def _tables(results: AnalysisResults) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = {name: getattr(results, name) for name in artifact.MAIN_TABLES}
    for name, frame in results.diagnostics.items():
        if not name or name != PurePosixPath(name).name or name.startswith("."):
            raise ValueError(f"the name of a diagnostic must be a plain file name, got {name!r}")
        tables[f"diagnostics/{name}"] = frame
    return tables

"""Data frames to CSV or strict JSON and back, with equal values and dtypes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repgeom.artifact import json_value, strict_json, write_text


def write_table(folder: Path, name: str, frame: pd.DataFrame, file: str | None) -> dict[str, Any]:
    """Write a table to ``folder / file`` (None: only describe it); return what :func:`read_table` needs."""
    columns = [_column_schema(name, frame, column) for column in frame]
    if file is not None:
        _write_rows(folder / file, frame, columns)
    return {"file": file, "columns": columns}


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


def _write_rows(path: Path, frame: pd.DataFrame, schemas: list[dict[str, Any]]) -> None:
    columns = [_encode(frame[schema["name"]], schema) for schema in schemas]
    names = [schema["name"] for schema in schemas]
    if path.suffix == ".json":
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        write_text(path, strict_json(rows))
        return
    lines = [",".join(map(_csv_field, row)) for row in [names, *zip(*columns, strict=True)]]
    write_text(path, "\n".join(lines) + "\n")


def _encode(series: pd.Series[Any], schema: Mapping[str, Any]) -> list[Any]:
    cells = series.tolist()
    if schema["cells"] in ("float", "int", "bool"):
        return cells
    missing = set(schema["missing"])
    if schema["cells"] == "json":
        cells = [
            None if row in missing else json.dumps(json_value(cell), ensure_ascii=False)
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


def read_table(root: Path, table: Mapping[str, Any]) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; a ``ValueError`` names a file that is not that table."""
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

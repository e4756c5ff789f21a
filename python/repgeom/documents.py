"""Text in any of its forms as a list of documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repgeom.checks import refusal


def documents_of(text: Any) -> Sequence[str]:
    """The documents of any form of text; at least one of them has something to read.

    Raises:
        ValueError: if it is no text, or white space only.
    """
    if isinstance(text, Path):
        return read_text(text)
    if isinstance(text, str):
        text = [text]
    if isinstance(text, bytes) or not isinstance(text, Sequence):
        raise refusal("text must be a string, a list of strings or a Path", type(text).__name__)
    for index, document in enumerate(text):
        if not isinstance(document, str):
            raise refusal(f"text[{index}] must be a string", type(document).__name__)
    if not any(document.strip() for document in text):
        raise refusal("text must hold more than white space", f"{len(text)} blank documents")
    return text


def read_text(path: Path) -> list[str]:
    """The documents of a UTF-8 file: the "text" of each line of a ``.jsonl``, the whole of any other.

    Args:
        path: the file.

    Raises:
        ValueError: if it is missing, a folder, unreadable, not UTF-8, blank, or a ``.jsonl`` file with a line
            that is no JSON object with a string "text".
    """
    if path.is_dir():
        raise refusal("text must be a file", f"the folder {path}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise refusal("text must be an existing file", path) from None
    except UnicodeDecodeError as error:
        raise refusal("text must be UTF-8", f"{path} with an invalid byte at {error.start}") from None
    except OSError as error:
        raise refusal("text must be a readable file", f"{path}: {error.strerror}") from error
    documents = _jsonl_texts(text, path) if path.suffix == ".jsonl" else [text]
    if not any(document.strip() for document in documents):
        raise ValueError(
            f"text must hold more than white space, got the file {path} of {len(text)} characters"
        )
    return documents


def _jsonl_texts(text: str, path: Path) -> list[str]:
    """The "text" of every line that is not blank."""
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{number} must be a JSON object, got {error.msg} at {error.colno}"
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise refusal(f'{path}:{number} must be a JSON object with a string "text"', repr(line[:60]))
        documents.append(record["text"])
    return documents


def demo_text() -> list[str]:
    """The documents of the demo corpus, "pydoc-topics" (see :mod:`repgeom.demo`)."""
    from repgeom.demo import corpus

    return corpus()

"""Ctrl-C between batches instead of in the middle of one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def deferred_interrupt(on_interrupt: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C calls ``on_interrupt`` and is remembered; the second one interrupts
    at once.

    Yields:
        A function that says whether Ctrl-C was pressed. Outside the main thread, where signals cannot be
        caught, it always says no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = False

    def handler(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        on_interrupt()

    before: Any = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def announce() -> None:
    """Says on standard error, past a progress bar, what the first Ctrl-C does."""
    from tqdm import tqdm

    notice = "Ctrl-C: finishing this batch and measuring what was seen (again to stop at once)"
    tqdm.write(notice, file=sys.stderr)

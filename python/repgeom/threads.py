"""How many threads a call works with."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any, Final

from repgeom import _core
from repgeom.checks import check_integer, refusal

MAX_THREADS: Final = 1024


def thread_count(threads: int | None) -> int:
    """``threads`` as given; ``None`` takes ``REPGEOM_NUM_THREADS``, ``OMP_NUM_THREADS`` or all processors."""
    if threads is None:
        return _core.default_threads()
    check_integer("threads", threads, 1)
    if threads > MAX_THREADS:
        raise refusal(f"threads must be at most {MAX_THREADS}", threads)
    return threads


def blas_threads(count: int) -> AbstractContextManager[Any]:
    """Within the block NumPy's BLAS and LAPACK work with this many threads.

    Threads that they do not need would spin for a while after every call and take processors from ours.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=count, user_api="blas")
    return limited


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

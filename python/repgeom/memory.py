"""How much memory is free, and how much this process holds."""

from __future__ import annotations

import os
from pathlib import Path

from repgeom.checks import check_integer

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def available() -> int | None:
    """Bytes that this process may still take: free memory, within the limit of its control group.

    ``None`` where the system does not say (anything but Linux).
    """
    free = _field("/proc/meminfo", "MemAvailable:")
    if free is None:
        return None
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return free * 1024
    # The cache of files that nobody reads counts as used and is given back on demand.
    cache = _field("/sys/fs/cgroup/memory.stat", "inactive_file") or 0
    return max(0, min(free * 1024, limit - used + cache))


def resident() -> int | None:
    """Bytes of memory that this process holds; ``None`` where the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return None
    return int(fields[1]) * _PAGE


def readable(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def limit_or_available(limit: int | None) -> int | None:
    """``memory_limit`` as given, else what is free."""
    if limit is None:
        return available()
    check_integer("memory_limit", limit, 1)
    return limit


def _field(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), None)


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

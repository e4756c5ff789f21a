from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

def instruction_sets() -> list[str]: ...
def default_threads() -> int: ...
def cuda_available() -> bool: ...
def multiply_add_loop(iterations: int, instruction_set: str = "") -> float: ...
def random_bits(seed: int, stream: int, start: int, count: int) -> npt.NDArray[np.uint64]: ...

class Workspace:
    def __init__(self) -> None: ...
    @property
    def bytes(self) -> int: ...

class Moments:
    def __init__(self, dim: int, cross_dim: int = 0) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def cross_dim(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def nonfinite(self) -> int: ...
    @property
    def weight_sum(self) -> float: ...
    def merge(self, other: Moments) -> None: ...
    def mean(self, cross: bool = False) -> npt.NDArray[np.float64]: ...
    def variance(self, ddof: float = 1.0, weighting: str = "frequency") -> npt.NDArray[np.float64]: ...
    def covariance(self, ddof: float = 1.0, weighting: str = "frequency") -> npt.NDArray[np.float64]: ...
    def cross_covariance(
        self, ddof: float = 1.0, weighting: str = "frequency"
    ) -> npt.NDArray[np.float64]: ...
    def error_scale(
        self, ddof: float = 1.0, weighting: str = "frequency", cross: bool = False
    ) -> npt.NDArray[np.float64]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...

def update_moments(
    moments: list[Moments],
    arrays: list[Any],
    cross: list[Any],
    weights: npt.NDArray[np.float64] | None,
    threads: int,
    instruction_set: str,
    run: int,
    workspace: Workspace,
) -> list[int]: ...
def nearest_neighbors(
    x: Any,
    queries: Any,
    k: int,
    metric: str,
    exponent: float,
    exclude_self: bool,
    threads: int,
    instruction_set: str,
    memory_limit: int,
    progress: Callable[[float], object] | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], dict[str, Any]]: ...
def neighbor_ranks(
    x: Any,
    indices: npt.NDArray[np.int64],
    metric: str,
    exponent: float,
    threads: int,
    instruction_set: str,
    memory_limit: int,
    progress: Callable[[float], object] | None,
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]: ...
def rips(
    clouds: list[Any],
    kind: str,
    metric: str,
    exponent: float,
    max_dim: int,
    field: int,
    threshold: float,
    min_persistence: float,
    representatives: bool,
    method: str,
    threads: int,
    instruction_set: str,
    progress: Callable[[float], object] | None,
) -> list[dict[str, Any]]: ...
def farthest_points(
    x: Any,
    metric: str,
    exponent: float,
    count: int,
    first: int,
    threads: int,
    instruction_set: str,
    progress: Callable[[float], object] | None,
) -> tuple[npt.NDArray[np.int64], float]: ...

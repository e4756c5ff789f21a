"""Centred kernel alignment over minibatches: any number of samples, all pairs of layers, a small state."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from repgeom.checks import FloatArray, refusal
from repgeom.cka import limits, missing
from repgeom.comparisons import NAN, OK, SimilarityMatrix
from repgeom.gram import Kernel, KernelName
from repgeom.hsic import compared
from repgeom.layer_pairs import named_layers
from repgeom.matching import matched
from repgeom.resampling import FEW_GROUPS

STATE_VERSION: Final = 1
LEAST: Final = 4
# Squares of what is smaller lose digits.
_SMALL: Final = 1e-140


class StreamingCKA:
    r"""Debiased CKA of all pairs of layers from minibatches (Nguyen, Raghu and Kornblith, arXiv 2010.15327).

    .. math:: \frac{\sum_b w_b H_b(K, L)}{\sqrt{\sum_b w_b H_b(K, K) \sum_b w_b H_b(L, L)}}

    with H_b the unbiased HSIC_1 of minibatch b and w_b its number of samples. Every H_b is an unbiased
    estimate of HSIC whatever the size of the minibatch, so the number converges to the CKA of the source; one
    minibatch gives exactly :func:`repgeom.cka`. The state is O(l^2) numbers. Samples of one minibatch should
    be independent draws: sentences rather than the tokens of one.

    With ``kernel="rbf"`` the median distance, with ``"polynomial"`` the scale, is that of each minibatch.

    Standard errors are of independent minibatches, by the linearised jackknife; they need at least 2, and are
    rough below 10.

    Args:
        names: Layers.
        names_b: Layers of a second model, for the pairs across; left out, the pairs within.
        kernel: As in :func:`repgeom.cka`, like the rest.
        bandwidth: Of ``"rbf"``.
        degree: Of ``"polynomial"``.
        offset: Of ``"polynomial"``.

    Attributes:
        batches: Minibatches seen.
        count: Samples in them.
        skipped: Samples of minibatches of fewer than 4, which have no HSIC_1 and are left out.

    Raises:
        ValueError: No names, a repeated name, a setting out of range.
    """

    def __init__(
        self,
        names: Iterable[Hashable],
        names_b: Iterable[Hashable] | None = None,
        *,
        kernel: KernelName = "linear",
        bandwidth: float = 0.5,
        degree: int = 3,
        offset: float = 1.0,
    ) -> None:
        self._kernel = Kernel(kernel, bandwidth, degree, offset)
        self.names_a = _checked_names(names)
        self.within = names_b is None
        self.names_b = self.names_a if names_b is None else _checked_names(names_b)
        shape = len(self.names_a), len(self.names_b)
        self.batches = self.count = self.skipped = 0
        self._sums = np.zeros((*shape, 3))
        self._squares = np.zeros((*shape, 3, 3))

    def update(self, layers: Any, layers_b: Any = None) -> StreamingCKA:
        """Adds a minibatch: ``{name: [n, d]}``, and for two models the same samples of the second.

        A list of layers has the names 0, 1, and so on.

        Raises:
            ValueError: Names that are missing or unknown, different n, NaN or infinity. Nothing has been
                added then.
        """
        side = _named(self.names_a, layers)
        if self.within != (layers_b is None):
            wanted = "one model" if self.within else "two models"
            raise refusal(f"a minibatch must be of {wanted}", "two" if self.within else "one")
        other = None if layers_b is None else _named(self.names_b, layers_b)
        found = matched(side, other, None, None, least=0, what="a minibatch")
        if found.n < LEAST:
            self.skipped += found.n
            return self
        # What overflows has a status in the result.
        with np.errstate(over="ignore", invalid="ignore"):
            hsic = self._hsic(list(found.a.values()), None if other is None else list(found.b.values()))
            weighted = found.n * hsic
            self._sums += weighted
            self._squares += weighted[..., :, None] * weighted[..., None, :]
        self.batches += 1
        self.count += found.n
        return self

    def _hsic(self, layers: list[Any], others: list[Any] | None) -> FloatArray:
        """``[la, lb, 3]``: HSIC_1 of each pair, of its first layer and of its second with themselves."""
        left, right, found = compared(layers, others, self._kernel, True, by_sample=False)
        n = left[0].n
        # Minibatches are averaged in the units of the data, not in their own.
        linear = self._kernel.name == "linear"
        units = [np.array([gram.mean_square if linear else 1.0 for gram in side]) for side in (left, right)]
        own = [
            np.array([0.0 if missing(gram, total) else total for gram, total in zip(side, sums, strict=True)])
            for side, sums in ((left, found.own_a), (right, found.own_b))
        ]
        hsic = np.empty((*found.cross.shape, 3))
        hsic[..., 0] = found.cross * np.outer(own[0] > 0, own[1] > 0) * np.outer(*units)
        hsic[..., 1] = (own[0] * units[0] ** 2)[:, None]
        hsic[..., 2] = own[1] * units[1] ** 2
        return np.asarray(hsic / (n * (n - 3)))

    def merge(self, other: StreamingCKA) -> StreamingCKA:
        """Adds what another one of the same names and kernel has seen."""
        if not isinstance(other, StreamingCKA):
            raise TypeError(f"other must be a StreamingCKA, got {type(other).__name__}")
        self._check_same(other._identity())
        self._sums += other._sums
        self._squares += other._squares
        self.batches += other.batches
        self.count += other.count
        self.skipped += other.skipped
        return self

    def read(self) -> SimilarityMatrix:
        """CKA of all pairs so far; NaN with a status before the first minibatch and for layers that do not
        vary."""
        sums = self._sums
        shape = sums.shape[:2]
        statuses = np.array([[self._status(i, j) for j in range(shape[1])] for i in range(shape[0])], object)
        usable = statuses == OK
        missing_values = np.full(shape, NAN)
        values = missing_values.copy()
        for i, j in np.argwhere(usable):
            values[i, j] = sums[i, j, 0] / np.prod(np.sqrt(sums[i, j, 1:]))
        return SimilarityMatrix(
            np.clip(values, *limits(True)),
            "similarity",
            self.count,
            "cka",
            limits(True),
            self.names_a,
            self.names_b,
            self._errors(values, usable),
            missing_values,
            missing_values,
            missing_values,
            statuses,
            missing_values,
            {**self._kernel.settings, "debiased": True, "batches": self.batches},
            self._warnings(),
        )

    def _status(self, i: int, j: int) -> str:
        if not self.batches:
            return f"no minibatch of at least {LEAST} samples"
        if not np.isfinite(self._squares[i, j]).all():
            return "the numbers are too large: scale the layers down"
        for name, own in ((self.names_a[i], self._sums[i, j, 1]), (self.names_b[j], self._sums[i, j, 2])):
            if not own > 0:
                return f"{name}: the samples do not vary, or all are equally far apart"
            if not own > _SMALL:
                return f"{name}: the numbers are too small: scale the layer up"
        return OK

    def _errors(self, values: FloatArray, usable: Any) -> FloatArray:
        errors = np.full(values.shape, NAN)
        if self.batches < 2:
            return errors
        for i, j in np.argwhere(usable):
            first, second = self._sums[i, j, 1:]
            scales = np.array([np.sqrt(first) * np.sqrt(second), first, second])
            direction = np.array([1, -values[i, j] / 2, -values[i, j] / 2])
            squares = self._squares[i, j] / scales / scales[:, None]
            spread = float(direction @ squares @ direction)
            rounding = 8 * np.finfo(np.float64).eps * float(squares.max())
            errors[i, j] = np.sqrt(spread * self.batches / (self.batches - 1)) if spread > rounding else 0.0
        return errors

    def _warnings(self) -> tuple[str, ...]:
        said = []
        if self.skipped:
            said.append(f"{self.skipped} samples of minibatches of fewer than {LEAST} were left out")
        if 0 < self.batches < FEW_GROUPS:
            few = "no standard error from 1 minibatch" if self.batches == 1 else None
            said.append(few or f"standard errors from {self.batches} minibatches are rough")
        return tuple(said)

    def _identity(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "names_a": list(self.names_a),
            "names_b": None if self.within else list(self.names_b),
            **self._kernel.settings,
        }

    def _check_same(self, state: Mapping[str, Any]) -> None:
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise refusal(f"{key} must be {value!r}", repr(state.get(key)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs: names, numbers and float64 arrays."""
        counts = {name: getattr(self, name) for name in ("batches", "count", "skipped")}
        return {**self._identity(), **counts, "sums": self._sums.copy(), "squares": self._squares.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the statistic by a saved one.

        Raises:
            ValueError: Another version, other names or another kernel, a missing entry or one of another
                shape. The statistic is as before then.
        """
        self._check_same(state)
        absent = sorted({"batches", "count", "skipped", "sums", "squares"} - set(state))
        if absent:
            raise refusal(f"state_dict must have the entries {absent}", sorted(state))
        sums, squares = (np.array(state[name], np.float64) for name in ("sums", "squares"))
        if sums.shape != self._sums.shape or squares.shape != self._squares.shape:
            rule = f"sums and squares must have the shapes {self._sums.shape} and {self._squares.shape}"
            raise refusal(rule, f"{sums.shape} and {squares.shape}")
        self._sums, self._squares = sums, squares
        self.batches, self.count, self.skipped = (int(state[key]) for key in ("batches", "count", "skipped"))

    def __repr__(self) -> str:
        shape = f"{len(self.names_a)} x {len(self.names_b)}"
        return f"StreamingCKA({shape} layers, batches={self.batches}, count={self.count})"


def _checked_names(names: Iterable[Hashable]) -> tuple[Hashable, ...]:
    found = tuple(names)
    if not found or len(set(found)) < len(found):
        raise refusal("names must be different, and at least one", list(found))
    return found


def _named(names: tuple[Hashable, ...], layers: Any) -> dict[Hashable, Any]:
    """The layers in the order of the names."""
    found = named_layers(layers)
    if found is None or set(found) != set(names):
        received = type(layers).__name__ if found is None else list(found)
        raise refusal(f"a minibatch must have the layers {list(names)}", received)
    return {name: found[name] for name in names}

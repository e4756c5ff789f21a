"""Which module outputs a block adds to its stream, found by value: `next = stream + sum of c * output`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from repgeom.probe import Call, Key, same
from repgeom.readout import is_norm

# Rounding errors allowed in a sum, in units of the dtype's eps times the sum's magnitude; and on average.
_MOST, _MEAN = 2.0, 0.5


@dataclass(frozen=True)
class Added:
    """A module output that is added to the stream, times a coefficient."""

    call: Call
    key: Key
    coefficient: float
    flat: bool


@dataclass(frozen=True)
class Stage:
    """One addition to the stream.

    Attributes:
        terms: What is added, in order of time.
        split: Two earlier outputs whose sum the one term is, if there are such.
        entry: The call and key where the new stream enters a module; None for the block's own output.
        flat: Whether it enters as `[batch * seq, d]`.
        normed: Whether the stream goes on as the output of a norm of the sum.
    """

    terms: tuple[Added, ...]
    split: tuple[Added, ...] | None
    entry: tuple[Call, Key] | None
    flat: bool
    normed: bool


@dataclass(frozen=True)
class _Value:
    """A state of the stream, or a value in a block shaped like it, and when it was there."""

    tensor: Tensor
    time: int
    call: Call | None = None
    key: Key = ()
    flat: bool = False


class _Pool:
    """Distinct outputs of the modules inside a block, as rows of a float64 matrix."""

    def __init__(self, outputs: list[_Value]) -> None:
        self.groups: list[list[_Value]] = []
        for value in outputs:
            group = next((group for group in self.groups if same(group[0].tensor, value.tensor)), None)
            if group is None:
                self.groups.append([value])
            else:
                group.append(value)
        rows = [_flat64(group[0].tensor) for group in self.groups]
        self.rows = torch.stack(rows) if rows else torch.zeros(0, 1, dtype=torch.float64)
        self.gram = self.rows @ self.rows.T

    def nearest(self, rows: list[int], target: Tensor, stream: Tensor, count: int) -> list[list[int]]:
        """The rows, or pairs of rows, whose span comes nearest to the difference of two states."""
        difference = _flat64(target) - _flat64(stream)
        total = float(difference @ difference)
        if len(rows) < count or not (0.0 < total < math.inf):
            return []
        along = self.rows[rows] @ difference
        gram = self.gram[rows][:, rows]
        norms = gram.diagonal()
        if count == 1:
            choices, reached = torch.arange(len(rows))[:, None], along**2 / norms
        else:
            i, j = torch.triu_indices(len(rows), len(rows), 1)
            choices, inner = torch.stack((i, j), 1), gram[i, j]
            area = norms[i] * norms[j] - inner**2
            reached = (
                norms[j] * along[i] ** 2 - 2 * inner * along[i] * along[j] + norms[i] * along[j] ** 2
            ) / area
            reached[~(area > 1e-10 * norms[i] * norms[j])] = -math.inf
        reached = torch.nan_to_num(reached, nan=-math.inf, neginf=-math.inf)
        best = reached.argsort(descending=True)[:4]
        return [[rows[k] for k in choices[n]] for n in best.tolist() if reached[n] >= 0.7 * total]

    def between(self, start: int, end: int) -> dict[int, _Value]:
        """By row: the last module that gave this value in an interval, dropouts after it included."""
        found = {}
        for row, group in enumerate(self.groups):
            inside = [value for value in group if start < value.time < end]
            if inside:
                found[row] = max(inside, key=lambda value: value.time)
        return found


def find_stages(block: Call, inside: list[Call], h_in: Tensor, h_out: Tensor) -> list[Stage] | None:
    """The additions that lead from a block's input to its output, or None.

    Args:
        block: The block's call.
        inside: The calls inside it, in order of entry.
        h_in: The stream that enters.
        h_out: The stream that leaves.
    """
    search = _Search(inside, h_in, _Value(h_out.cpu(), block.end))
    return search.walk(_Value(h_in.cpu(), block.start))


class _Search:
    def __init__(self, inside: list[Call], h_in: Tensor, last: _Value) -> None:
        self.last = last
        shape = h_in.shape
        self.pool = _Pool(
            [
                _Value(tensor.cpu().reshape(shape), call.end, call, key, tensor.shape != shape)
                for call in inside
                for key, tensor in call.outputs.items()
                if _fits(tensor, shape)
            ]
        )
        self.entries: list[_Value] = []
        for call in inside:
            for key, tensor in call.inputs.items():
                if _fits(tensor, shape):
                    value = tensor.cpu().reshape(shape)
                    if not any(same(value, known.tensor) for known in self.entries):
                        self.entries.append(_Value(value, call.start, call, key, tensor.shape != shape))
        self.norms = [call for call in inside if is_norm(call)]

    def walk(self, stream: _Value) -> list[Stage] | None:
        """Additions from this state of the stream to the block's output."""
        if same(stream.tensor, self.last.tensor):
            return []
        targets = [*(entry for entry in self.entries if entry.time > stream.time), self.last]
        targets = [target for target in targets if not same(target.tensor, stream.tensor)]
        for count in (1, 2):
            for target in targets:
                for terms in self.sums(stream, target, count)[:1]:
                    for state, normed in self.continuations(target):
                        rest = self.walk(state)
                        if rest is not None:
                            split = self.split(stream, target, terms)
                            entry = None if target.call is None else (target.call, target.key)
                            return [Stage(terms, split, entry, target.flat, normed), *rest]
        return None

    def continuations(self, target: _Value) -> list[tuple[_Value, bool]]:
        """The sum itself, then the outputs of norms that take it."""
        found = [(target, False)]
        for call in self.norms:
            entered, output = call.first_input, next(iter(call.outputs.values()))
            shape = target.tensor.shape
            if entered is None or not _fits(entered, shape):
                continue
            if same(entered.cpu().reshape(shape), target.tensor):
                found.append((_Value(output.cpu().reshape(shape), call.end), True))
        return found

    def split(self, stream: _Value, target: _Value, terms: tuple[Added, ...]) -> tuple[Added, ...] | None:
        """Two outputs that make up the one that is added, such as attention and MLP before a dropout."""
        if len(terms) > 1:
            return None
        whole = terms[0].call.outputs[terms[0].key].cpu().reshape(stream.tensor.shape)
        return next(iter(self.sums(stream, target, 2, besides=whole)), None)

    def sums(
        self, stream: _Value, target: _Value, count: int, besides: Tensor | None = None
    ) -> list[tuple[Added, ...]]:
        """Sums of `count` outputs that lead from one state of the stream to another, best first."""
        between = {
            row: value
            for row, value in self.pool.between(stream.time, target.time).items()
            if not same(value.tensor, stream.tensor) and (besides is None or not same(value.tensor, besides))
        }
        fits = []
        for picked in self.pool.nearest(list(between), target.tensor, stream.tensor, count):
            values = sorted((between[row] for row in picked), key=lambda value: value.time)
            terms = _fitted(stream.tensor, target.tensor, values)
            if terms is not None:
                fits.append(terms)
        return fits


def _fitted(stream: Tensor, target: Tensor, values: list[_Value]) -> tuple[Added, ...] | None:
    """The coefficients with `stream + sum of c * value == target` within rounding, or None."""
    s, t = _flat64(stream), _flat64(target)
    rows = torch.stack([_flat64(value.tensor) for value in values])
    inverse = torch.linalg.inv(rows @ rows.T)
    coefficients = inverse @ (rows @ (t - s))
    left = t - s - coefficients @ rows
    spread = (left @ left / max(1, len(t) - len(rows)) * inverse.diagonal()).sqrt()
    rounded = [_tidy(float(c), float(e)) for c, e in zip(coefficients, spread, strict=True)]
    coefficients = torch.tensor(rounded, dtype=torch.float64)
    left = (t - s - coefficients @ rows).abs()
    eps = max(torch.finfo(x.dtype).eps for x in (stream, target, *(value.tensor for value in values)))
    error = left / (eps * (t.abs() + s.abs() + coefficients.abs() @ rows.abs()) + 1e-300)
    explained = left.norm() <= 0.5 * (t - s).norm()
    if not (error.max() <= _MOST and error.square().mean().sqrt() <= _MEAN and explained):
        return None
    return tuple(
        Added(value.call, value.key, c, value.flat)
        for value, c in zip(values, rounded, strict=True)
        if value.call is not None
    )


def _tidy(value: float, error: float) -> float:
    """The shortest decimal within the error of an estimated coefficient: what a configuration holds."""
    for digits in range(1, 7):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= 4 * error + 1e-7 * abs(value):
            return short
    return value


def _fits(tensor: Tensor, shape: torch.Size) -> bool:
    return tensor.shape == shape or (
        tensor.dim() >= 2 and tensor.shape[-1] == shape[-1] and tensor.numel() == shape.numel()
    )


def _flat64(tensor: Tensor) -> Tensor:
    return tensor.double().flatten()

"""Whether a model is right on padded batches: the numbers decide, not its signature."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from repgeom.anatomy import ModelAnatomy
from repgeom.arguments import Arguments, ordinary_tokens, token_inputs
from repgeom.capture import capture
from repgeom.probe import (
    accepts,
    config_values,
    evaluating,
    one_line,
    parameters,
    probing,
    relative_error,
)

# Tokens that follow those of the probe: padding in some rows, text in others.
_EXTRA = 4
_UNKNOWN = (math.nan, math.nan, math.nan)

Errors: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class PaddingCheck:
    """What padding on the right, masked, does to the hidden states of real tokens.

    Errors are the largest of all sites, each ``max|a - b| / max|b|`` over the real tokens.

    Attributes:
        right_error: a sequence padded on the right in a batch with a longer one, against the same one alone.
        masked_error: other ids under the mask, against that; 0 if bit-equal.
        prefix_error: the sequence with further real tokens after it, against the same one alone: within the
            tolerance if the model does not look ahead.
        tolerance: 1e-4; 2e-2 unless all parameters are float32 or wider.
        ok: whether ``right_error`` and ``masked_error`` are within the tolerance.
        tokens: tokens compared at each site.
        sites: where they were compared: what enters and leaves every block.
        reason: why not ``ok``; None if it is.
    """

    right_error: float
    masked_error: float
    prefix_error: float
    tolerance: float
    ok: bool
    tokens: int
    sites: tuple[str, ...]
    reason: str | None

    def __str__(self) -> str:
        if not self.ok:
            return f"wrong, so sequences run without: {self.reason}"
        ahead = "later tokens change nothing" if self.causal else "later tokens change earlier ones"
        return f"right, relative error {self.right_error:.1e}; {ahead}"

    @property
    def causal(self) -> bool:
        """Whether tokens that follow change nothing."""
        return self.prefix_error <= self.tolerance


def check_padding(model: nn.Module, anatomy: ModelAnatomy) -> PaddingCheck:
    """Run a short sequence alone and in a padded batch, and compare the hidden states of its tokens.

    It costs two tiny forwards. In an encoder-decoder the side that feeds the measured stack is padded, and
    for a decoder also the encoder's input.

    Args:
        model: The model.
        anatomy: Its anatomy, with the stack that is measured.

    Returns:
        The errors. A model that fails is right on batches of equal lengths without padding only.

    Raises:
        ValueError: If no token ids reach the stack: then there is nothing to pad.
    """
    tolerance = _tolerance(model)
    sites = tuple(f"resid_{side}.{index}" for index in range(anatomy.num_blocks) for side in ("pre", "post"))
    ids = token_inputs(anatomy.probe).get(anatomy.token_input or "")
    if ids is None:
        raise ValueError(f"no token ids reach {anatomy.tower} of {anatomy.model_class}: nothing to pad")
    n = ids.shape[1]

    def check(errors: Errors, reason: str | None) -> PaddingCheck:
        right, masked, prefix = errors
        return PaddingCheck(right, masked, prefix, tolerance, reason is None, n, sites, reason)

    if anatomy.stream_problem is not None:
        return check(_UNKNOWN, anatomy.stream_problem)
    if not anatomy.deterministic:
        return check(_UNKNOWN, "two forwards of the same tokens differ")
    try:
        errors = _errors(model, anatomy, sites, n)
    except Exception as error:  # Whatever model code raises.
        return check(_UNKNOWN, f"the padded forward failed with {one_line(error)}")
    return check(errors, _reason(errors, tolerance))


def takes_mask(model: nn.Module) -> bool:
    """Whether the model's forward can be called with an ``attention_mask``, be it ignored."""
    kinds = [parameter.kind for parameter in parameters(model).values()]
    return accepts(model, "attention_mask") or inspect.Parameter.VAR_KEYWORD in kinds


def _reason(errors: Errors, tolerance: float) -> str | None:
    right, masked, _ = errors
    for cause, error in (("padding changes", right), ("masked ids change", masked)):
        if not (error <= tolerance):
            return f"{cause} the hidden states of real tokens by {error:.1e} relative, not {tolerance:.0e}"
    return None


def _errors(model: nn.Module, anatomy: ModelAnatomy, sites: tuple[str, ...], n: int) -> Errors:
    """The three errors of :class:`PaddingCheck`; NaN if any site has NaN."""
    alone: dict[str, Tensor] = {}
    found: list[Errors] = []

    def states(hidden: Tensor, length: int) -> Tensor:
        return anatomy.to_tokens(hidden, length, layout="BSH")[:, :n]

    def remember(site: str, hidden: Tensor) -> None:
        alone[site] = states(hidden, n)[0].clone()

    def compare(site: str, hidden: Tensor) -> None:
        padded, other, longer = states(hidden, n + _EXTRA)[:3]
        pairs = ((padded, alone[site]), (other, padded), (longer, alone[site]))
        right, masked, prefix = (relative_error(a, b) for a, b in pairs)
        found.append((right, masked, prefix))

    with probing(), evaluating(model):
        for (args, kwargs), look in ((_alone(anatomy), remember), (_padded(model, anatomy), compare)):
            with capture(model, sites, on_activation=look, anatomy=anatomy) as activations:
                activations.run(*args, **kwargs)
    right, masked, prefix = (
        float(torch.tensor(column, dtype=torch.float64).max()) for column in zip(*found, strict=True)
    )
    return right, masked, prefix


def _alone(anatomy: ModelAnatomy) -> Arguments:
    """The first row of the probe."""
    args, kwargs = anatomy.probe
    rows = len(next(iter(token_inputs(anatomy.probe).values())))

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.dim() and len(value) == rows else value

    named = {name: first(value) for name, value in kwargs.items() if not name.endswith("position_ids")}
    return tuple(first(value) for value in args), named


def _padded(model: nn.Module, anatomy: ModelAnatomy) -> Arguments:
    """Four rows that begin with that row: padded, padded with other ids, followed by text in the measured
    stream, and followed by text throughout, so that no column is all padding."""
    args, kwargs = _alone(anatomy)
    streams = token_inputs((args, kwargs))
    if anatomy.token_input == "input_ids":
        streams = {"input_ids": streams["input_ids"]}
    text, pad = _extensions(model)
    longer: dict[int, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, ids in streams.items():
        follows = [pad, text.flip(0), text if name == anatomy.token_input else pad, text]
        longer[id(ids)] = torch.cat([ids.repeat(4, 1), torch.stack(follows).to(ids)], dim=1)
        real = torch.ones_like(longer[id(ids)])
        real[[row for row in range(4) if follows[row] is not text], ids.shape[1] :] = 0
        masks["decoder_attention_mask" if name == "decoder_input_ids" else "attention_mask"] = real

    def repeat(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != 1 or id(value) in longer:
            return longer.get(id(value), value)
        ids = streams.get("decoder_input_ids" if name.startswith("decoder_") else "input_ids")
        if ids is not None and value.shape[:2] == ids.shape:  # Segments and the like, as at the last token.
            value = torch.cat([value, *[value[:, -1:]] * _EXTRA], dim=1)
        return value.repeat(4, *(1 for _ in value.shape[1:]))

    named = {name: repeat(name, value) for name, value in kwargs.items() if name not in masks}
    taken = {"attention_mask": takes_mask(model)}
    masks = {name: mask for name, mask in masks.items() if taken.get(name, accepts(model, name))}
    return tuple(repeat("", value) for value in args), {**named, **masks}


def _extensions(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Token ids that follow the probe's: text, and padding."""
    known = ordinary_tokens(model)
    pad = config_values(model).get("pad_token_id")
    text = torch.tensor([known[(5 + 41 * step) % len(known)] for step in range(_EXTRA)])
    return text, torch.full_like(text, pad if type(pad) is int and pad >= 0 else 0)


def _tolerance(model: nn.Module) -> float:
    wide = (torch.float32, torch.float64)
    return 1e-4 if all(parameter.dtype in wide for parameter in model.parameters()) else 2e-2

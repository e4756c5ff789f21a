"""Batches of tokens a model can run, with the positions that count as data marked.

Two sources give an iterator of :class:`TokenBatch`: :func:`repgeom.dataloaders.iter_dataloader` for batches
that somebody else made, and :func:`repgeom.text.plan_text` for text. Whatever pads, pads on the right: models
that count positions from the first column are wrong on left-padded batches and right on these
(:func:`pack_right`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

from repgeom.checks import refusal

# Of one batch, but on another axis than `input_ids`, even where the lengths happen to agree.
_OTHER_AXES = ("cross_", "decoder_", "encoder_", "image_", "past_", "pixel_", "video_")


@dataclass(frozen=True)
class TokenPolicy:
    """Which positions count as data. Recorded in every artifact.

    Attributes:
        padding: "drop" counts real tokens only. "keep" counts every position and leaves batches as they came,
            padded on whatever side: only for reproducing tools that do so.
        special_tokens: "keep" counts the tokens that the tokenizer calls special (BOS, EOS, separators) like
            all others; "drop" shows them to the model but does not count them.

    Raises:
        ValueError: if a field has a value that is not listed here.
    """

    padding: Literal["drop", "keep"] = "drop"
    special_tokens: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if value not in allowed:
                raise ValueError(f"TokenPolicy.{field.name} must be one of {allowed}, got {value!r}")

    def to_dict(self) -> dict[str, str]:
        """The policy as plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> TokenPolicy:
        """The policy that :meth:`to_dict` gave; fields that are missing have their default.

        Raises:
            ValueError: if a field is unknown or has an unknown value.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"TokenPolicy has the fields {known}, got also {unknown}")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks the values


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """One call of the model, ``model(*args, **kwargs)``, and what is known about its positions.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        keep: bool ``[batch, seq]``, True where a position counts as data; None where positions cannot be
            known (anything but token ids or ``inputs_embeds``): then all of them count.
        token_ids: ``[batch, seq]``, or None.
        n_tokens: positions that count.
        n_padding: padding positions the model sees (counted or not).
        sequence_ids: int64 ``[batch]``, the running number of each sequence in the source; None if unknown.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keep: Tensor | None
    token_ids: Tensor | None
    n_tokens: int
    n_padding: int
    sequence_ids: Tensor | None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch with every tensor on a device, also those inside nested lists and mappings."""
        return TokenBatch(
            args=_move(self.args, device),
            kwargs=_move(self.kwargs, device),
            keep=_move(self.keep, device),
            token_ids=_move(self.token_ids, device),
            n_tokens=self.n_tokens,
            n_padding=self.n_padding,
            sequence_ids=_move(self.sequence_ids, device),
        )


def _move(value: Any, device: torch.device | str) -> Any:
    """``value`` with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_move(item, device) for item in value)
    return value


def pack_right(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move the real tokens of every row to the front, in their order, and trim columns of padding only.

    Tensors ``[b, s, ...]`` aligned with ``attention_mask [b, s]`` are reordered with it, and so are
    ``position_ids`` (``[b, s]``, ``[1, s]`` or ``[k, b, s]``). Tensors of the decoder, of images and of
    caches are left alone.

    Args:
        batch: keyword arguments of a model, with ``input_ids`` or ``inputs_embeds``.

    Returns:
        A new dict, or ``batch`` itself if it has no mask or is already packed.

    Raises:
        ValueError: if the mask has another shape than the input, values other than 0 and 1, or no 1 at all.
    """
    real = real_positions(batch, "batch")
    return batch if real is None else pack_known(batch, real, "batch")


def pack_known(batch: Mapping[str, Any], real: Tensor, where: str) -> Mapping[str, Any]:
    """:func:`pack_right`, given the real positions ``[b, s]``."""
    longest = int(real.sum(dim=1).max()) if real.numel() else 0
    if longest == 0:
        raise refusal(f"{where}: must have at least one real token", f"only padding {list(real.shape)}")
    if longest == real.shape[1] and _leads(real):
        return batch
    order = real.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    seq2seq = any(name.startswith("decoder_") for name in batch)
    packed = {}
    for name, value in batch.items():
        if name == "position_ids" and isinstance(value, Tensor):
            packed[name] = _reorder_positions(value, order, real.shape)
        elif _is_aligned(name, value, real.shape) and not (seq2seq and name == "labels"):
            packed[name] = _reorder(value, order)
        else:
            packed[name] = value
    return packed


def _leads(real: Tensor) -> bool:
    """Whether in every row all real tokens stand before all padding."""
    return not bool((real[:, 1:] & ~real[:, :-1]).any())


def _is_aligned(name: str, value: Any, shape: torch.Size) -> bool:
    """Whether a value has one entry per position ``[b, s]``."""
    return isinstance(value, Tensor) and value.shape[:2] == shape and not name.startswith(_OTHER_AXES)


def _reorder(value: Tensor, order: Tensor) -> Tensor:
    """``value [b, s, ...]`` read in the order ``[b, s']``."""
    rest = value.shape[2:]
    index = order.to(value.device).reshape(*order.shape, *(1 for _ in rest)).expand(*order.shape, *rest)
    return value.gather(1, index)


def _reorder_positions(value: Tensor, order: Tensor, shape: torch.Size) -> Tensor:
    """``position_ids`` of any of its three layouts, read in the order ``[b, s']``."""
    if value.ndim == 3 and value.shape[1:] == shape:
        return torch.stack([_reorder(plane, order) for plane in value])
    if value.shape == (1, shape[1]):
        value = value.expand(shape)
    if value.shape != shape:
        raise ValueError(
            f"position_ids must have the shape of input_ids {list(shape)}, got {list(value.shape)}"
        )
    return _reorder(value, order)


def real_positions(batch: Mapping[str, Any], where: str) -> Tensor | None:
    """bool ``[b, s]``, True where no ``attention_mask`` forbids; None if the batch has no positions."""
    ids, embeds, mask = (batch.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
    if ids is not None:
        source = _check_ids(ids, where)
    elif isinstance(embeds, Tensor) and embeds.ndim == 3:
        source = embeds
    else:
        return None
    shape = source.shape[:2]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=source.device)
    if not isinstance(mask, Tensor):
        raise refusal(f"{where}: attention_mask must be a tensor", type(mask).__name__)
    if mask.shape != shape:
        raise refusal(f"{where}: attention_mask must have the input's shape {list(shape)}", list(mask.shape))
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise refusal(f"{where}: attention_mask must hold only 0 and 1", odd[0].item())
    return mask != 0


def _check_ids(ids: Any, where: str) -> Tensor:
    """``ids`` if it is an integer tensor ``[b, s]``."""
    if not isinstance(ids, Tensor):
        raise refusal(f"{where}: input_ids must be a tensor", type(ids).__name__)
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"{where}: input_ids must be integers [batch, seq], got {ids.dtype} {list(ids.shape)}"
        )
    return ids


def check_vocabulary(ids: Tensor, vocab_size: int | None, where: str) -> None:
    """Refuse ids that the embedding table does not have."""
    if vocab_size is None or ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        received = f"{low if low < 0 else high}; is this the tokenizer of this model?"
        rule = f"{where}: token ids must be in [0, {vocab_size - 1}], the model's vocabulary"
        raise refusal(rule, received)


def without_special(keep: Tensor, ids: Tensor, special_ids: Sequence[int]) -> Tensor:
    """``keep`` less the positions of special tokens."""
    if not special_ids:
        return keep
    return keep & ~torch.isin(ids, torch.tensor(special_ids, dtype=ids.dtype, device=ids.device))

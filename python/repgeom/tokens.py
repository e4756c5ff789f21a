"""Batches of tokens a model can run, with the positions that count as data marked.

Two sources give an iterator of :class:`TokenBatch`: :func:`repgeom.dataloaders.iter_dataloader` for batches
that somebody else made, and :func:`repgeom.text.plan_text` for text. Whatever pads, pads on the right: models
that count positions from the first column are wrong on left-padded batches and right on these
(:func:`pack_right`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from repgeom.checks import check_integer, refusal

# The label that losses ignore.
UNLABELED = -100

# Of one batch, but on another axis than `input_ids`, even where the lengths happen to agree.
_OTHER_AXES = ("cross_", "decoder_", "encoder_", "image_", "past_", "pixel_", "video_")


@dataclass(frozen=True)
class TokenPolicy:
    """Which positions count as data. Recorded in every artifact.

    The model sees all positions whatever the policy: one that does not count is shown and not measured.

    Attributes:
        padding: "drop" counts real tokens only. "keep" counts every position and leaves batches as they came,
            padded on whatever side: only for reproducing tools that do so.
        special_tokens: "keep" counts the tokens that the tokenizer calls special (BOS, EOS, separators) like
            all others; "drop" does not.
        first: so many positions at the start of each sequence do not count, special tokens among them: 1
            drops BOS, or whatever stands there and gathers the attention.
        labels: "require" counts only positions with a label other than -100 in the batch's ``labels``
            ``[batch, seq]``, taken as stored: the label at the position itself, not at the next one.
        duplicates: "drop" counts positions with equal prefixes once: where all ids from the start of the
            sequence have occurred in an earlier sequence of the run, a causal model computes the same
            activations again, and the first of them is kept. Wrong for models that look ahead.
        high_norm: positions do not count whose activation has a norm above this multiple of the median norm
            of the counting positions of the same sequence, in any measured layer (attention sinks); decided
            when the model has run, so budgets count such positions. None: all norms.

    Raises:
        ValueError: if a field has a value that is not listed here.
    """

    padding: Literal["drop", "keep"] = "drop"
    special_tokens: Literal["keep", "drop"] = "keep"
    first: int = 0
    labels: Literal["ignore", "require"] = "ignore"
    duplicates: Literal["keep", "drop"] = "keep"
    high_norm: float | None = None

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise refusal(f"TokenPolicy.{name} must be one of {get_args(hint)}", repr(value))
        check_integer("TokenPolicy.first", self.first, 0)
        if self.high_norm is not None and not _is_multiple(self.high_norm):
            raise refusal(
                "TokenPolicy.high_norm must be None or a finite number above 1", repr(self.high_norm)
            )
        if self.padding == "keep" and self.duplicates == "drop":
            rule = 'TokenPolicy.duplicates="drop" needs padding="drop", as padding moves sequences'
            raise refusal(rule, 'padding="keep"')

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenPolicy:
        """The policy that :meth:`to_dict` gave; fields that are missing have their default.

        Raises:
            ValueError: if a field is unknown or has an unknown value.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"TokenPolicy has the fields {known}, got also {unknown}")
        return cls(**values)


def _is_multiple(value: Any) -> bool:
    """Whether a value is a finite number above 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 < value < math.inf


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
        real: bool ``[batch, seq]``, True for tokens and False for padding; None where ``keep`` is.
        dropped: bool ``[batch, seq]`` by reason, for each reason that the policy has: positions that do not
            count (see :data:`repgeom.positions.REASONS`). No position has two reasons, and padding is none:
            ``keep`` is ``real`` less all of these (with ``padding="keep"``, everything less these).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keep: Tensor | None
    token_ids: Tensor | None
    n_tokens: int
    n_padding: int
    sequence_ids: Tensor | None
    real: Tensor | None = None
    dropped: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch with every tensor on a device, also those inside nested lists and mappings."""
        return TokenBatch(**{field.name: _move(getattr(self, field.name), device) for field in fields(self)})


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


def pack_known(
    batch: Mapping[str, Any], real: Tensor, where: str, *, seq2seq: bool = False
) -> Mapping[str, Any]:
    """:func:`pack_right`, given the real positions ``[b, s]``; with ``seq2seq`` labels are the decoder's."""
    names = aligned_names(batch, real.shape, seq2seq=seq2seq)
    return _pack(batch, real, where, names, "position_ids")


def pack_decoder(batch: Mapping[str, Any], real: Tensor, where: str) -> Mapping[str, Any]:
    """:func:`pack_right` for the decoder's tensors (``decoder_...`` and ``labels``), given where they are
    real, ``[b, t]``."""
    names = aligned_names(batch, real.shape, prefix="decoder_", seq2seq=True)
    return _pack(batch, real, f"{where}: the decoder", names, "decoder_position_ids")


def aligned_names(
    batch: Mapping[str, Any], shape: torch.Size, *, prefix: str = "", seq2seq: bool = False
) -> set[str]:
    """The arguments with one entry per position ``[b, s]`` of the input, or of the decoder.

    Integers ``[b, s, ...]`` (boxes), numbers ``[b, s]`` and embeddings; no spectrogram of the same shape.

    Args:
        batch: keyword arguments of a model.
        shape: ``[b, s]``.
        prefix: "decoder_" for the decoder's; labels are the decoder's where there is one.
        seq2seq: that there is one, where no name says so.
    """
    seq2seq = seq2seq or any(name.startswith("decoder_") for name in batch)
    names = set()
    for name, value in batch.items():
        if not isinstance(value, Tensor) or value.shape[:2] != shape:
            continue
        of_decoder = name.startswith("decoder_") or (name == "labels" and seq2seq)
        flat = value.ndim == 2 or not value.is_floating_point() or name.endswith("inputs_embeds")
        if flat and (of_decoder if prefix else not of_decoder and not name.startswith(_OTHER_AXES)):
            names.add(name)
    return names


def _pack(
    batch: Mapping[str, Any], real: Tensor, where: str, names: Collection[str], positions: str
) -> Mapping[str, Any]:
    """The batch with the named tensors packed to the right, and the positions of their side."""
    longest = int(real.sum(dim=1).max()) if real.numel() else 0
    if longest == 0:
        raise refusal(f"{where}: must have at least one real token", f"only padding {list(real.shape)}")
    if longest == real.shape[1] and _leads(real):
        return batch
    order = real.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    packed = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and name == positions:
            packed[name] = _reorder_positions(value, order, real.shape)
        else:
            packed[name] = _reorder(value, order) if name in names else value
    return packed


def masking(arguments: Mapping[str, Any]) -> list[str]:
    """Names of masks that forbid something."""
    return [
        name
        for name, value in arguments.items()
        if name.endswith("mask") and isinstance(value, Tensor) and bool((value == 0).any())
    ]


def _leads(real: Tensor) -> bool:
    """Whether in every row all real tokens stand before all padding."""
    return not bool((real[:, 1:] & ~real[:, :-1]).any())


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


def real_positions(batch: Mapping[str, Any], where: str, prefix: str = "") -> Tensor | None:
    """bool ``[b, s]``, True where no ``attention_mask`` forbids; None if the batch has no positions.

    Args:
        batch: keyword arguments of a model.
        where: what to call the batch in errors.
        prefix: "decoder_" for the positions of the decoder.
    """
    ids, embeds = batch.get(f"{prefix}input_ids"), batch.get(f"{prefix}inputs_embeds")
    if ids is not None:
        source = _check_ids(ids, f"{where}: {prefix}input_ids")
    elif isinstance(embeds, Tensor) and embeds.ndim == 3:
        source = embeds
    else:
        return None
    mask = batch.get(f"{prefix}attention_mask")
    if mask is None:
        return torch.ones(source.shape[:2], dtype=torch.bool, device=source.device)
    return check_mask(mask, source.shape[:2], f"{where}: {prefix}attention_mask")


def decoder_positions(batch: Mapping[str, Any], where: str) -> Tensor:
    """bool ``[b, t]``, where the decoder of a batch has tokens.

    Known from ``decoder_input_ids`` (or ``decoder_inputs_embeds``) and their mask; without those from the
    ``labels``, of which models make the decoder's inputs: one position for each label other than -100.
    """
    real = real_positions(batch, where, "decoder_")
    if real is not None:
        return real
    if batch.get("labels") is None:
        rule = f"{where}: the decoder stream needs decoder_input_ids, decoder_inputs_embeds or labels"
        raise refusal(rule, ", ".join(map(str, batch)) or "nothing")
    labels, mask = _check_ids(batch["labels"], f"{where}: labels"), batch.get("decoder_attention_mask")
    if mask is not None:
        return check_mask(mask, labels.shape, f"{where}: decoder_attention_mask")
    real = labels != UNLABELED
    runs = (torch.nn.functional.pad(real.int(), (1, 0)).diff(dim=1) == 1).sum(dim=1)
    if bool((runs > 1).any()):
        rule = f"{where}: labels that become the decoder's input must be without gaps"
        raise refusal(rule, f"{UNLABELED} between labels; pass decoder_input_ids")
    return real


def check_mask(mask: Any, shape: torch.Size, name: str) -> Tensor:
    """``mask`` as bool if it is 0 and 1 in the shape of the input it masks."""
    if not isinstance(mask, Tensor):
        raise refusal(f"{name} must be a tensor", type(mask).__name__)
    if mask.shape != shape:
        raise refusal(f"{name} must have the input's shape {list(shape)}", list(mask.shape))
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise refusal(f"{name} must hold only 0 and 1", odd[0].item())
    return mask != 0


def _check_ids(ids: Any, name: str) -> Tensor:
    """``ids`` if it is an integer tensor ``[b, s]``."""
    if not isinstance(ids, Tensor):
        raise refusal(f"{name} must be a tensor", type(ids).__name__)
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise refusal(f"{name} must be integers [batch, seq]", f"{ids.dtype} {list(ids.shape)}")
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

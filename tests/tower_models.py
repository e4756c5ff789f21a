"""A small model with a free way through its blocks, and hooks that show what passes them."""

import itertools

import torch
from torch import nn

from model_families import LAYERS, VOCAB, WIDTH, Block


def states_at_blocks(found, arguments):
    """What enters and leaves each block call, by hooks of the test's own, as `[batch, positions, d]`."""
    entered, left = {}, {}
    calls = {}

    def tensor_in(args, kwargs):
        return next(value for value in (*args, *kwargs.values()) if torch.is_tensor(value))

    def before(path):
        def hook(_, args, kwargs):
            calls[path] = calls.get(path, -1) + 1
            entered[path, calls[path]] = found.to_tokens(tensor_in(args, kwargs).clone())

        return hook

    def after(path):
        def hook(_, __, out):
            state = out if torch.is_tensor(out) else out[0]
            left[path, calls[path]] = found.to_tokens(state.clone())

        return hook

    handles = []
    for path in {block.path for block in found.blocks}:
        module = found.module(path)
        handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(module.register_forward_hook(after(path)))
    with torch.no_grad():
        found.model(*arguments[0], **arguments[1])
    for handle in handles:
        handle.remove()
    return [(entered[b.path, b.call], left[b.path, b.call]) for b in found.blocks]


def assert_linked(found):
    states = states_at_blocks(found, found.probe)
    assert all(state.shape[-1] == found.d_model for pair in states for state in pair)
    assert all(torch.equal(a[1], b[0]) for a, b in itertools.pairwise(states))


class Net(nn.Module):
    """Embedding, blocks, head; `way` is the forward between the first two and the last."""

    def __init__(self, way=None, blocks=None):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = blocks or nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        self.way = way or (lambda self, hidden: self.run(hidden))

    def run(self, hidden):
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def forward(self, input_ids):
        return self.lm_head(self.norm(self.way(self, self.embed(input_ids))))

"""One thread, one Hypothesis profile (the same examples every time, no deadline), and what many tests read.

Machines are shared: the threads of OpenBLAS and OpenMP, waiting for each other on busy cores, can make small
problems a hundred times slower.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import signal
from typing import Any

import pytest
import torch
import transformers
from hypothesis import settings

from repgeom import demo

torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, which tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("repgeom", deadline=None, derandomize=True)
settings.load_profile("repgeom")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of the demo model."""
    return transformers.AutoTokenizer.from_pretrained(demo.MODEL_DIR)

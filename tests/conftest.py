"""One Hypothesis profile (the same examples every time, no deadline), and one thread for the libraries' solvers.

Machines are shared: the threads of OpenBLAS and OpenMP, waiting for each other on busy cores, can make small
eigenproblems a hundred times slower.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

settings.register_profile("repgeom", deadline=None, derandomize=True)
settings.load_profile("repgeom")

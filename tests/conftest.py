"""One Hypothesis profile (same examples every time, no deadline); one thread for the libraries' solvers.

Machines are shared: the threads of OpenBLAS and OpenMP, waiting for each other on busy cores, can make small
eigenproblems a hundred times slower.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("repgeom", deadline=None, derandomize=True)
settings.load_profile("repgeom")

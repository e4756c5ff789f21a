"""One Hypothesis profile: the same examples every time and no deadline (machines are shared)."""

from hypothesis import settings

settings.register_profile("repgeom", deadline=None, derandomize=True)
settings.load_profile("repgeom")

"""``python -m repgeom`` is the ``repgeom`` command."""

from repgeom.cli import main

main()

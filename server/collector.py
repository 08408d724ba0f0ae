"""Python's collector of cyclic garbage, in a process that grows trees."""

from __future__ import annotations

import atexit
import gc

_YOUNG = 20_000
"""New objects before the collector comes; Python's default is 700. Those of a tree stay, and each
would be looked at twice in vain before it counts as old."""


def settle() -> None:
    """Takes all that is there for good, libraries and models, out of the collector's sight, and has
    it come less often. Back again when the process ends: libraries that look for leaks then would
    take all of it for one, and say so."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])

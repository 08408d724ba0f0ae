"""Python's collector of cyclic garbage, in a process that grows trees."""

from __future__ import annotations

import atexit
import gc

_YOUNG = 100_000
"""New objects, less those that were freed, before the collector comes; Python's default is 700.
Searches leave no cycles behind (`Search.close`), so that it looks in vain at all that lives, while
every request waits."""


def settle() -> None:
    """Takes all that is there for good, libraries and models, out of the collector's sight, and has
    it come less often. Back again when the process ends: libraries that look for leaks then would
    take all of it for one, and say so."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])

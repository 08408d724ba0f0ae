"""What would break: a process whose collector looks at the libraries and models again and again, or
that ends in complaints about them."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from server import collector

kept = [[] for _ in range(100_000)]
collector.settle()
assert gc.get_freeze_count() > len(kept)
assert not any(each is kept for each in gc.get_objects()), "what was there is not looked at"
before = sum(each["collections"] for each in gc.get_stats())
young = [[] for _ in range(10_000)]
assert sum(each["collections"] for each in gc.get_stats()) == before
for _ in range(300_000):
    cycle = []
    cycle.append(cycle)
after = sum(each["collections"] for each in gc.get_stats())
assert after > before, "cycles are still collected"
assert len(gc.get_objects()) < 150_000
"""


def test_what_is_there_for_good_is_not_looked_at_and_cycles_still_are() -> None:
    """In a process of its own: the collector is the whole process's."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


AT_EXIT = """
import atexit, gc
from server import collector


class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected")


kept = [Cycle()]
atexit.register(lambda: kept.clear() or gc.collect())
collector.settle()
"""


def test_what_was_put_out_of_sight_is_collected_when_the_process_ends() -> None:
    """Else libraries report as leaked, at every shutdown, whatever the process had."""
    ended = subprocess.run([sys.executable, "-c", AT_EXIT], check=True, capture_output=True)
    assert ended.stdout == b"collected\n"
    assert not ended.stderr

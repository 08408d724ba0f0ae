"""What would break: branches that share blocks would read or write each other's KV, or leak."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcts_core.kv.blocks import BlockPool, KVExhausted
from mcts_core.kv.branch import Branch, Ledger


class Paper:
    """An oracle: a branch's contents written out, and a pool's memory as a dictionary."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.memory: dict[int, int] = {}

    def write(self, branch: Branch, values: list[int]) -> None:
        start = branch.length
        for source, target in branch.grow(len(values)):
            for offset in range(self.pool.block_size):
                slot = source * self.pool.block_size + offset
                self.memory[target * self.pool.block_size + offset] = self.memory.get(slot, -1)
        slots = branch.slots(range(start, branch.length))
        for slot, value in zip(slots, values, strict=True):
            self.memory[slot] = value

    def read(self, branch: Branch) -> list[int]:
        return [self.memory[slot] for slot in branch.slots(range(branch.length))]


class Branches(RuleBasedStateMachine):
    """Any order of growing, forking, truncating and releasing leaves each branch its own text."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(24, 4)
        self.ledger = Ledger()
        self.paper = Paper(self.pool)
        self.live: list[tuple[Branch, list[int]]] = []
        self.counter = 0

    def _pick(self, index: int) -> tuple[Branch, list[int]]:
        return self.live[index % len(self.live)]

    @rule()
    def begin(self) -> None:
        self.live.append((Branch(self.pool, self.ledger), []))

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), count=st.integers(0, 9))
    def grow(self, index: int, count: int) -> None:
        branch, text = self._pick(index)
        values = [self.counter + step for step in range(count)]
        self.counter += count
        needed, free = branch.missing(count), self.pool.free
        if needed > free:
            before = (list(branch.blocks), branch.length)
            with pytest.raises(KVExhausted):
                branch.grow(count)
            assert (branch.blocks, branch.length) == before
            return
        self.paper.write(branch, values)
        assert free - self.pool.free == needed
        text.extend(values)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), at=st.integers(0, 99))
    def fork(self, index: int, at: int) -> None:
        branch, text = self._pick(index)
        at %= branch.length + 1
        self.live.append((branch.fork(at), text[:at]))

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), at=st.integers(0, 99))
    def truncate(self, index: int, at: int) -> None:
        branch, text = self._pick(index)
        at %= branch.length + 1
        branch.truncate(at)
        del text[at:]

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99))
    def release(self, index: int) -> None:
        branch, _ = self.live.pop(index % len(self.live))
        branch.release()
        branch.release()

    @invariant()
    def each_branch_reads_what_it_wrote(self) -> None:
        for branch, text in self.live:
            assert self.paper.read(branch) == text

    @invariant()
    def books_balance(self) -> None:
        self.pool.check_integrity()
        distinct = {block for branch, _ in self.live for block in branch.blocks}
        assert self.ledger.held == self.pool.held == len(distinct)
        assert self.ledger.references == sum(len(branch.blocks) for branch, _ in self.live)
        assert self.pool.free + self.pool.held + self.pool.pinned == self.pool.total

    def teardown(self) -> None:
        self.ledger.release_all()
        assert self.pool.held == 0
        assert self.ledger.held == self.ledger.references == 0


TestBranches = Branches.TestCase
TestBranches.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(length=st.integers(0, 40), at=st.integers(0, 40), size=st.integers(1, 17))
def test_a_fork_shares_all_blocks_until_it_writes(length: int, at: int, size: int) -> None:
    pool = BlockPool(200, size)
    trunk = Branch(pool, Ledger())
    trunk.grow(length)
    held = pool.held
    twig = trunk.fork(min(at, length))
    assert pool.held == held
    partial = twig.length % size != 0
    copies = twig.grow(1)
    assert len(copies) == partial
    assert pool.held == held + 1


def test_the_peak_and_its_sharing_are_what_was_held_then() -> None:
    ledger = Ledger()
    pool = BlockPool(20, 4)
    trunk = Branch(pool, ledger)
    trunk.grow(8)
    twigs = [trunk.fork() for _ in range(3)]
    for twig in twigs:
        twig.grow(4)
    assert (ledger.peak, ledger.references) == (5, 11)
    assert ledger.shared_at_peak == pytest.approx(1 - 5 / 11)
    for twig in twigs:
        twig.release()
    assert (ledger.peak, ledger.held) == (5, 2)

"""What would break: a prompt that finds blocks with another's text, or a block that is lost or
given out while somebody needs it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcts_core.kv.blocks import BlockPool, KVExhausted
from mcts_core.kv.branch import Branch, Ledger
from tests.mcts_core.kv.test_branch import Paper

SIZE = 2
TOKENS = st.lists(st.integers(0, 1), max_size=9)


class OneBit(int):
    """A token whose hash says only whether it is odd."""

    def __hash__(self) -> int:
        return int(self) & 1


@given(st.lists(TOKENS, min_size=1, max_size=6), TOKENS)
def test_tokens_with_the_same_hash_do_not_find_each_others_blocks(
    prompts: list[list[int]], wanted: list[int]
) -> None:
    def weak(tokens: list[int]) -> list[OneBit]:
        return [OneBit(2 * token) for token in tokens]

    pool, ledger = BlockPool(80, SIZE), Ledger()
    texts: dict[int, tuple[int, ...]] = {}
    for prompt in prompts:
        branch = Branch(pool, ledger)
        branch.grow(len(prompt))
        pool.keep(None, weak(prompt), branch.blocks)
        for at, block in enumerate(branch.blocks):
            texts[block] = tuple(prompt[: (at + 1) * SIZE])
    found = pool.find(None, weak(wanted))
    for at, block in enumerate(found):
        assert texts[block] == tuple(wanted[: (at + 1) * SIZE])
    known = {text[:end] for text in texts.values() for end in range(SIZE, len(text) + 1, SIZE)}
    if len(prompts) == 1:
        assert len(found) == sum(
            tuple(wanted[:end]) in known for end in range(SIZE, len(wanted) + 1, SIZE)
        )


def test_the_same_text_with_another_salt_is_another_prompt() -> None:
    pool, ledger = BlockPool(9, SIZE), Ledger()
    branch = Branch(pool, ledger)
    branch.grow(4)
    pool.keep("mine", [5, 6, 7, 8], branch.blocks)
    assert pool.find("mine", [5, 6, 7, 8, 9]) == branch.blocks
    assert pool.find("yours", [5, 6, 7, 8]) == pool.find(None, [5, 6, 7, 8]) == []


def test_the_leaf_that_was_not_used_for_longest_is_evicted_first() -> None:
    pool, ledger = BlockPool(6, SIZE), Ledger()
    prompts = ([1, 1, 2, 2, 3, 3], [1, 1, 4, 4])
    for prompt in prompts:
        branch = Branch(pool, ledger)
        branch.adopt(pool.find(None, prompt))
        branch.grow(len(prompt) - branch.length)
        pool.keep(None, prompt, branch.blocks)
        branch.release()
    assert (pool.cached, pool.free) == (4, 1)
    reader = Branch(pool, ledger)
    reader.adopt(pool.find(None, prompts[0][:4]))
    reader.release()
    left = []
    for _ in range(4):
        other = Branch(pool, ledger)
        other.grow(SIZE)
        left.append([len(pool.find(None, prompt)) for prompt in prompts])
    # The free block; the first prompt's last; the second prompt's last; and the first prompt's.
    assert left == [[3, 2], [2, 2], [2, 1], [1, 1]]
    with pytest.raises(KVExhausted):
        Branch(pool, ledger).grow(2 * SIZE)
    pool.check_integrity()


class Prompts(RuleBasedStateMachine):
    """Requests come, find what earlier ones left, write on, fork, and go, in a pool that is too
    small: each branch reads its own text, and the books balance."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(14, SIZE)
        self.ledgers = [Ledger(), Ledger(), Ledger()]
        self.paper = Paper(self.pool)
        self.live: list[tuple[int, Branch, list[int]]] = []

    def _write(self, branch: Branch, values: list[int]) -> bool:
        if branch.missing(len(values)) > self.pool.available:
            before = (list(branch.blocks), branch.length)
            with pytest.raises(KVExhausted):
                branch.grow(len(values))
            assert (branch.blocks, branch.length) == before
            return False
        self.paper.write(branch, values)
        return True

    @rule(who=st.integers(0, 2), prompt=TOKENS, keep=st.booleans())
    def begin(self, who: int, prompt: list[int], keep: bool) -> None:
        branch = Branch(self.pool, self.ledgers[who])
        found = self.pool.find(None, prompt)
        branch.adopt(found)
        assert self.paper.read(branch) == prompt[: branch.length]
        if not self._write(branch, prompt[branch.length :]):
            branch.release()
            return
        if keep:
            self.pool.keep(None, prompt, branch.blocks)
        self.live.append((who, branch, prompt))

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), values=TOKENS)
    def grow(self, index: int, values: list[int]) -> None:
        who, branch, text = self.live[index % len(self.live)]
        if self._write(branch, values):
            self.live[index % len(self.live)] = (who, branch, text + values)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), at=st.integers(0, 99))
    def fork(self, index: int, at: int) -> None:
        who, branch, text = self.live[index % len(self.live)]
        at %= branch.length + 1
        self.live.append((who, branch.fork(at), text[:at]))

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), at=st.integers(0, 99))
    def truncate(self, index: int, at: int) -> None:
        who, branch, text = self.live[index % len(self.live)]
        at %= branch.length + 1
        branch.truncate(at)
        self.live[index % len(self.live)] = (who, branch, text[:at])

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99))
    def release(self, index: int) -> None:
        _, branch, _ = self.live.pop(index % len(self.live))
        branch.release()

    @rule(who=st.integers(0, 2))
    def end(self, who: int) -> None:
        self.ledgers[who].release_all()
        self.live = [entry for entry in self.live if entry[0] != who]

    @invariant()
    def each_branch_reads_its_own_text(self) -> None:
        for _, branch, text in self.live:
            assert self.paper.read(branch) == text

    @invariant()
    def books_balance(self) -> None:
        pool = self.pool
        pool.check_integrity()
        held = {block for _, branch, _ in self.live for block in branch.blocks}
        assert pool.held == len(held)
        assert pool.free + pool.held + pool.cached + pool.pinned == pool.total
        for who, ledger in enumerate(self.ledgers):
            mine = [branch.blocks for owner, branch, _ in self.live if owner == who]
            assert ledger.held == len({block for blocks in mine for block in blocks})
            assert ledger.references == sum(map(len, mine))


TestPrompts = Prompts.TestCase
TestPrompts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

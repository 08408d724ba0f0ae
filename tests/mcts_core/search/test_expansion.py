from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log

import pytest

from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Steps, T, WorkFailed
from mcts_core.search.parameters import Merge, SearchParameters, Width
from mcts_core.search.tree import Node, Tree
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import (
    Extend,
    Extended,
    Failed,
    Finish,
    Outcome,
    Release,
    Work,
)
from tests.mcts_core.search.driver import meters, task
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import WorldState


class Desk:
    """An expansion, and answers for it."""

    def __init__(self, *, max_tokens: int = 100, **parameters: object) -> None:
        search = SearchParameters.model_validate(parameters)
        asked = task(search, max_tokens=max_tokens, seed=5)
        self.outbox: list[Work] = []
        self.tree: Tree = new_tree()
        self.extended: list[Extend] = []
        width = AdaptiveWidth(search.width)
        counts = meters(search, max_tokens)
        evaluation = Evaluation(asked, *counts, self.outbox)
        self.expansion = Expansion(asked, width, evaluation, *counts, self.outbox)

    def expand(
        self, *answers: Outcome, at: Node | None = None, count: int = 1
    ) -> tuple[list[Node], Node | None]:
        node = at or self.tree.root
        return self.answer(self.expansion.expand(self.tree, node, count, "mcts"), *answers)

    def child(self, *answers: Outcome, at: Node | None = None) -> Node:
        """The one new child that the answers lead to."""
        (child,), merged = self.expand(*answers, at=at)
        assert merged is None
        return child

    def answer(self, steps: Steps[T], *answers: Outcome) -> T:
        """Answers each piece of work by the next of `answers`."""
        left = list(answers)
        try:
            works = next(steps)
            while True:
                self.extended.extend(work for work in works if isinstance(work, Extend))
                works = steps.send(tuple(left.pop(0) for _ in works))
        except StopIteration as stop:
            assert not left, "fewer draws than expected"
            result: T = stop.value
            return result

    @property
    def released(self) -> list[str]:
        states = [work.state for work in self.outbox if isinstance(work, Release)]
        return ["".join(map(chr, state.tokens)) for state in states]


def drawn(*texts: str) -> Extended:
    """What draws come to; of texts that are equal, one option."""
    options = [
        replace(option(text), draws=tuple(i for i, other in enumerate(texts) if other == text))
        for text in dict.fromkeys(texts)
    ]
    return Extended(tuple(options))


def test_the_first_option_is_greedy_and_the_rest_are_drawn() -> None:
    desk = Desk(temperature=0.6)
    desk.expand(drawn("a", "b"), count=2)
    desk.expand(drawn("c"))
    assert [work.greedy_first for work in desk.extended] == [True, False]
    assert [work.sampling.temperature for work in desk.extended] == [0.6, 0.6]
    assert {work.sampling.seed for work in desk.extended} == {5}


def test_draws_of_a_node_are_numbered_without_a_gap() -> None:
    desk = Desk()
    desk.expand(drawn("a", "b", "c"), count=3)
    desk.expand(drawn("d"))
    desk.expand(drawn("e", "f"), count=2)
    assert [work.key for work in desk.extended] == [(0, 0), (0, 3), (0, 4)]
    assert [work.draws for work in desk.extended] == [3, 1, 2]


def test_options_drawn_together_are_children_in_their_order() -> None:
    desk = Desk()
    new, merged = desk.expand(drawn("a", "b", "c"), count=3)
    assert merged is None
    assert [child.text for child in new] == ["a", "b", "c"]
    assert tuple(new) == desk.tree.root.children
    assert not any(child.blocked for child in new)
    assert list(desk.tree.root.avoid) == [(97,), (98,), (99,)]


def test_draws_that_agree_are_one_child_and_count_as_merged() -> None:
    desk = Desk()
    new, _ = desk.expand(drawn("a", "b", "a", "a"), count=4)
    assert [child.text for child in new] == ["a", "b"]
    assert desk.tree.merged == 2
    assert desk.released == [], "there is one state of them: the child's"


def test_a_copy_among_new_options_is_given_back_and_not_drawn_again() -> None:
    desk = Desk()
    desk.child(drawn("a"))
    new, merged = desk.expand(drawn("a", "b"), count=2)
    assert [child.text for child in new] == ["b"]
    assert merged is None
    assert desk.released == ["a"]
    assert desk.tree.merged == 1


def test_options_too_much_like_each_other_are_one_child() -> None:
    desk = Desk(merge={"threshold": 0.5})
    new, _ = desk.expand(drawn("aaaa", "aaab", "cccc"), count=3)
    assert [child.text for child in new] == ["aaaa", "cccc"]
    assert desk.released == ["aaab"]
    assert desk.tree.merged == 1


def test_draws_that_are_all_copies_are_drawn_again_together() -> None:
    desk = Desk(width=Width(root=(4, 4)))
    steps = desk.expansion.expand(desk.tree, desk.tree.root, 2, "mcts")
    next(steps)  # begun before its siblings are there
    desk.expand(drawn("a", "b"), count=2)
    (again,) = steps.send((drawn("b", "a"),))
    assert isinstance(again, Extend)
    assert (again.draws, again.greedy_first) == (2, False)
    with pytest.raises(StopIteration) as stop:
        steps.send((drawn("c", "d"),))
    new, _ = stop.value.value
    assert [child.text for child in new] == ["c", "d"]
    assert sorted(desk.released) == ["a", "b"]
    assert desk.tree.merged == 2


def test_copies_are_not_drawn_again_beyond_the_budget() -> None:
    desk = Desk(budget={"nodes": 4})
    steps = desk.expansion.expand(desk.tree, desk.tree.root, 2, "mcts")
    next(steps)
    (_, second), _ = desk.expand(drawn("a", "b"), count=2)
    with pytest.raises(StopIteration) as stop:
        steps.send((drawn("b", "a"),))
    assert stop.value.value == ([], second)
    assert sorted(desk.released) == ["a", "b"]


def test_options_beyond_a_nodes_maximum_are_given_back() -> None:
    desk = Desk(width=Width(root=(1, 3)))
    desk.expand(drawn("a", "b"), count=2)
    new, _ = desk.expand(drawn("c", "d"), count=2)
    assert [child.text for child in new] == ["c"]
    assert desk.released == ["d"]
    assert desk.expand(drawn("e")) == ([], None), "it is full"
    assert desk.released == ["d", "e"]
    assert [child.text for child in desk.tree.root.children] == ["a", "b", "c"]


def test_a_draw_is_told_what_was_drawn_before() -> None:
    desk = Desk()
    for text in "abc":
        desk.expand(drawn(text))
    told = [[sibling.tokens for sibling in work.siblings] for work in desk.extended]
    assert told == [[], [(97,)], [(97,), (98,)]]


def test_a_copy_of_a_sibling_is_given_back_and_drawn_again() -> None:
    desk = Desk()
    steps = desk.expansion.expand(desk.tree, desk.tree.root, 1, "mcts")
    next(steps)  # begun before its sibling is there: it cannot be told to avoid it
    desk.expand(drawn("a"))
    (again,) = steps.send((drawn("a"),))
    assert isinstance(again, Extend)
    assert [sibling.tokens for sibling in again.siblings] == [(97,)]
    with pytest.raises(StopIteration) as stop:
        steps.send((drawn("b"),))
    assert [child.text for child in stop.value.value[0]] == ["b"]
    assert desk.released == ["a"]
    assert desk.tree.merged == 1


def test_a_draw_that_stays_a_copy_merges_into_its_sibling_and_closes_the_node() -> None:
    desk = Desk(merge={"redraws": 2})
    child = desk.child(drawn("a"))
    assert desk.expand(drawn("a")) == ([], child)
    assert desk.tree.root.closed, "it was told to avoid the only thing that it can say"
    assert len(desk.tree.root.children) == 1
    assert desk.released == ["a"]


def test_a_node_whose_children_have_all_of_the_probability_is_not_drawn_from_again() -> None:
    desk = Desk()
    desk.expand(Extended((option("ab", log(0.5)),)))  # 0.25 in all
    assert not desk.tree.root.closed
    assert desk.tree.root.left == pytest.approx(0.75)
    desk.expand(Extended((option("c", log(0.75)),)))
    assert desk.tree.root.closed


def test_of_draws_that_are_all_alike_the_most_distant_is_kept() -> None:
    desk = Desk(merge={"redraws": 2, "threshold": 0.5})
    desk.expand(drawn("aaaaaa"))
    child = desk.child(drawn("aaaaab"), drawn("aaaabb"), drawn("aaaaac"))
    assert child.text == "aaaabb"
    assert desk.released == ["aaaaab", "aaaaac"]
    assert desk.tree.merged == 3


def test_without_merging_copies_are_children() -> None:
    desk = Desk(merge=Merge(by="none"))
    desk.expand(drawn("a"))
    desk.expand(drawn("a"))
    assert [child.text for child in desk.tree.root.children] == ["a", "a"]


def test_options_are_cut_to_what_is_left_of_the_trajectory() -> None:
    desk = Desk(max_tokens=10, step={"max_tokens": 6})
    child = desk.child(drawn("aaaaaa"))
    assert child.end is None, "the option's own limit ends the option, not the trajectory"
    child = desk.child(drawn("bbbb"), at=child)
    assert [work.max_tokens for work in desk.extended] == [6, 4]
    assert child.end == "length"
    assert child.solved


def finished(text: str, finish: Finish) -> Extended:
    return Extended((replace(option(text), finish=finish),))


def test_ends_are_told_from_steps() -> None:
    ends = {}
    finishes: tuple[Finish, ...] = ("step", "eos", "stop", "length")
    for finish in finishes:
        desk = Desk(step={"max_tokens": 1})
        ends[finish] = desk.child(finished("a", finish)).end
    assert ends == {"step": None, "eos": "stop", "stop": "stop", "length": None}


def test_an_option_cut_before_its_limit_has_filled_the_context() -> None:
    desk = Desk(step={"max_tokens": 5})
    assert desk.child(finished("abc", "length")).end == "length"


def test_the_depth_limit_ends_a_trajectory_but_not_a_terminal() -> None:
    assert Desk(max_depth=1).child(finished("a", "step")).end == "length"
    assert Desk(max_depth=1).child(finished("a", "eos")).end == "stop"


def test_a_full_context_makes_the_node_an_unfinished_end() -> None:
    desk = Desk()
    node = desk.child(drawn("a"))
    assert desk.expand(Failed("context_length", "full"), at=node) == ([], None)
    assert node.end == "length"
    assert node.solved
    assert desk.tree.root.open == 0


def test_a_failure_of_the_node_closes_it_and_is_remembered() -> None:
    desk = Desk()
    failed = Failed("numeric", "not finite")
    assert desk.expand(failed, count=3) == ([], None)
    assert desk.tree.root.solved
    assert desk.expansion.failure == failed


def test_a_full_pool_is_not_the_nodes_fault() -> None:
    desk = Desk()
    with pytest.raises(WorkFailed, match="full"):
        desk.expand(Failed("kv_exhausted", "full"), count=3)
    assert not desk.tree.root.closed
    assert desk.tree.root.pending == 0


def test_expansions_in_flight_take_room_and_give_it_back() -> None:
    desk = Desk(width=Width(root=(4, 4)))
    root = desk.tree.root
    begun = [desk.expansion.expand(desk.tree, root, count, "mcts") for count in (3, 1)]
    keys = [next(steps)[0].key for steps in begun]  # type: ignore[union-attr]
    assert keys == [(0, 0), (0, 3)]
    assert root.pending == 4
    assert root.blocked
    close: list[Callable[[], None]] = [steps.close for steps in begun]
    for closing in close:
        closing()
    assert not root.blocked
    assert root.pending == 0


def test_states_made_by_the_engine_are_kept_for_their_children() -> None:
    desk = Desk()
    child = desk.child(drawn("a"))
    assert isinstance(child.state, WorldState)
    desk.expand(drawn("b"), at=child)
    assert desk.extended[1].state is child.state

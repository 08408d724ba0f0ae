"""What would break: a state that is grown twice, or one that nothing leads to any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcts_core.search.methods import METHODS
from mcts_core.search.parameters import Budget, Merge, SearchParameters, Select, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.transpositions import StateRuleTooSlow, Transpositions
from mcts_core.search.tree import Tree
from tests.mcts_core.search.driver import grow, picture
from tests.mcts_core.search.test_expansion import Desk, drawn
from tests.mcts_core.search.test_repeatability import PARAMETERS
from tests.mcts_core.search.test_tree import accounted, new_tree, option
from tests.mcts_core.search.world import World, noise, operations, text

MERGE = Merge.model_validate({"state": {"regex": r"\((.*)\)$"}})


class Spelled(World):
    """Every line says which numbers are left."""

    def _lines(self, tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
        numbers, begun = self._left(tokens)
        if len(numbers) == 1:
            return super()._lines(tokens)
        return [
            (tuple(map(ord, line[len(begun) :])), 0.05 + noise(numbers, line))
            for line in self._spelled(numbers)
            if line.startswith(begun)
        ]

    def _left(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        numbers = tuple(sorted(self.numbers))
        *lines, begun = text(tokens[len(self.prompt) :]).split("\n")
        for line in lines:
            numbers = self._spelled(numbers)[line + "\n"]
        return numbers, begun

    @staticmethod
    def _spelled(numbers: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {
            f"{line[:-1]} ({' '.join(map(str, rest))})\n": rest
            for line, rest in operations(numbers)
        }


def states(tree: Tree) -> list[tuple[int, str]]:
    """Depth and numbers left of every unfinished node that the method itself has grown."""
    return [
        (node.depth, node.text[node.text.index("(") :])
        for node in tree.walk()
        if "(" in node.text and node.end is None and node.origin == tree.root.origin
    ]


def exhaustive(numbers: Sequence[int], **fields: Any) -> tuple[SearchResult, Tree]:
    parameters = SearchParameters(
        critics={"noise": 1.0},
        budget=Budget(simulations=100_000),
        width=Width(root=(2, 99), inner=(2, 99)),
        stop_when=StopWhen(converged=False),
        **fields,
    )
    search, tree = grow(parameters, world=Spelled(numbers=tuple(numbers)))
    result = search.result
    assert isinstance(result, SearchResult)
    assert result.stop_reason == "exhausted"
    return result, tree


@pytest.mark.parametrize("numbers", [(2, 3, 4), (2, 2, 5), (1, 2, 3, 3)])
def test_every_state_is_grown_once_and_every_end_is_still_reached(numbers: Sequence[int]) -> None:
    _, plain = exhaustive(numbers)
    _, merged = exhaustive(numbers, merge=MERGE)
    found = states(merged)
    assert len(found) == len(set(found)) < len(states(plain))
    assert set(found) == set(states(plain))
    ends = {node.text for node in plain.terminals}
    assert {node.text for node in merged.terminals} == ends, "each answer that there is"
    assert merged.merged > 0


CROWDED = SearchParameters(
    critics={"value": 1.0},
    budget=Budget(simulations=27),
    parallel=6,
    select=Select(rule="uct"),
    width=Width(root=(2, 4)),
    stop_when=StopWhen(converged=False),
)
"""More options lead elsewhere from one node than it has room for: they are in flight together."""


@settings(max_examples=50, deadline=None)
@given(parameters=PARAMETERS, seed=st.integers(0, 3), order=st.integers(0, 2**32))
@example(parameters=CROWDED, seed=2, order=0)
def test_no_visit_is_lost(parameters: SearchParameters, seed: int, order: int) -> None:
    merge = MERGE.model_copy(update={"threshold": parameters.merge.threshold})
    parameters = parameters.model_copy(update={"merge": merge})
    world = Spelled(critic_noise=0.5)
    tree = accounted(world, parameters, seed, order)
    found = states(tree)
    assert len(found) == len(set(found))
    assert sum(node.merged for node in tree.walk()) <= tree.merged
    for node in tree.walk():
        assert len(node.children) + node.elsewhere <= (16 if node.parent is None else 6)
        assert "".join(step.text for step in node.path()) == text(
            [token for step in node.path() for token in step.tokens]
        )
        if node.visits:
            assert tree.low - 1e-9 <= node.value <= tree.high + 1e-9


@settings(max_examples=20, deadline=None)
@given(parameters=PARAMETERS, seed=st.integers(0, 3), order=st.integers(0, 2**32))
def test_which_node_stands_for_a_state_does_not_depend_on_the_order_of_arrival(
    parameters: SearchParameters, seed: int, order: int
) -> None:
    parameters = parameters.model_copy(update={"merge": MERGE})
    _, tree = grow(parameters, world=Spelled(critic_noise=0.5), seed=seed)
    _, same = grow(parameters, world=Spelled(critic_noise=0.5), seed=seed, shuffle=order)
    assert picture(tree) == picture(same)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_solves_what_it_can_and_gives_its_kv_back(method: Any) -> None:
    parameters = SearchParameters(
        method=method,
        critics={"value": 1.0, "orm": 1.0},
        merge=MERGE,
        width=Width(root=(4, 16), inner=(3, 8), beam=6),
    )
    world = Spelled()
    search, tree = grow(parameters, world=world)
    result = search.result
    assert isinstance(result, SearchResult)
    assert result.trajectories[0].finish_reason == "stop"
    if method in ("mcts", "beam", "best_first"):
        assert result.trajectories[0].score == 1.0
        found = states(tree)
        assert len(found) == len(set(found))


def test_a_draw_that_leads_to_a_known_state_has_its_value_and_is_not_offered_again() -> None:
    desk = Desk(merge={"redraws": 0, "state": {"regex": r"\((.*)\)"}}, width=Width(root=(2, 2)))
    here = desk.child(drawn("1+3 (4)"))
    other = desk.child(drawn("2*5 (10)"))
    first = desk.child(drawn("2*2 (4)"), at=here)
    assert desk.expand(drawn("10-6 (4)"), at=other) == ([], first)
    assert (first.merged, other.elsewhere, other.children) == (1, 1, ())
    assert desk.released == ["10-6 (4)"]
    desk.expand(drawn("10-5 (5)"), at=other)
    told = [sibling.tokens for sibling in desk.extended[-1].siblings]
    assert told == [tuple(map(ord, "10-6 (4)"))]


def test_a_state_whose_kv_is_gone_is_stood_for_by_the_next_node_that_comes_to_it() -> None:
    desk = Desk(merge={"state": {"regex": r"\((.*)\)"}})
    first = desk.child(drawn("1+3 (4)"))
    first.state = None
    second = desk.child(drawn("2*2 (4)"))
    assert second.elsewhere == 0
    assert desk.expand(drawn("4+0 (4)"), drawn("8/2 (4)"), drawn("5-1 (4)")) == ([], second)


def test_ends_and_options_that_were_cut_are_no_states() -> None:
    rule = Merge.model_validate({"state": {"regex": r"\((.*)\)"}}).state
    transpositions = Transpositions(rule)
    root = new_tree().root
    line = option("1+3 (4)")
    assert transpositions.key(root, line) == (1, ("4",))
    assert transpositions.key(root, replace(line, finish="length")) is None
    assert transpositions.key(root, replace(line, finish="eos")) is None
    assert transpositions.key(root, option("no numbers")) is None
    assert Transpositions(None).key(root, line) is None


def test_without_groups_all_of_the_match_is_the_state() -> None:
    transpositions = Transpositions(Merge.model_validate({"state": {"regex": r"\d+$"}}).state)
    assert transpositions.key(new_tree().root, option("1+3=4")) == (1, ("4",))


def test_an_expression_that_backtracks_for_ever_closes_the_node_and_says_so() -> None:
    slow = {"regex": r"(a|aa|a?a)+$x|(a+a+)+b"}
    transpositions = Transpositions(Merge.model_validate({"state": slow}).state)
    with pytest.raises(StateRuleTooSlow, match=r"merge\.state\.regex"):
        transpositions.key(new_tree().root, option("a" * 40 + "!"))
    desk = Desk(merge={"state": slow})
    assert desk.expand(drawn("a" * 40 + "!")) == ([], None)
    assert desk.tree.root.closed
    assert desk.expansion.failure is not None
    assert "merge.state.regex" in desk.expansion.failure.message
    assert desk.released == ["a" * 40 + "!"]

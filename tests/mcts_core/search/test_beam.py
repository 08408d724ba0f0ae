from __future__ import annotations

import pytest

from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.work import Extend
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.world import EOS, World


def test_a_beam_with_an_exact_critic_solves_the_puzzle() -> None:
    parameters = SearchParameters(
        method="beam", critics={"value": 1.0, "orm": 1.0}, width=Width(beam=8)
    )
    result = solve(World(), parameters)
    assert result.trajectories[0].text.endswith("answer 24")
    assert result.trajectories[0].score == 1.0
    assert (result.method, result.stop_reason, result.fallback) == ("beam", "exhausted", None)


def test_a_beam_keeps_no_more_nodes_than_its_width() -> None:
    world = World()
    _, tree = grow(
        SearchParameters(method="beam", critics={"noise": 1.0}, width=Width(beam=2)), world=world
    )
    by_depth: dict[int, set[int]] = {}
    for work in world.done:
        if isinstance(work, Extend):
            by_depth.setdefault(text_depth(work), set()).add(id(work.state))
    assert all(len(parents) <= 2 for parents in by_depth.values())
    assert len(tree.terminals) == 2
    inner = [state for state in world.opened if state.tokens.count(10) < 4]
    assert all(state.released for state in inner), "KV of what is done with is given back"


def text_depth(work: Extend) -> int:
    return list(work.state.tokens).count(10)


def test_a_beams_candidates_are_drawn_together_below_each_node() -> None:
    world = World()
    parameters = SearchParameters(method="beam", critics={"noise": 1.0}, width=Width(beam=3))
    solve(world, parameters)
    extends = [work for work in world.done if isinstance(work, Extend)]
    first = [work for work in extends if work.key[1] == 0]
    first = {id(work.state): work.draws for work in reversed(extends)}
    assert set(first.values()) == {3}
    again = [work for work in extends if work.draws < 3]
    assert all(work.siblings for work in again), "what is made up for avoids what is there"
    assert len(first) == len({work.key[0] for work in extends})
    assert all(work.greedy_first == (work.key[1] == 0) for work in extends)


def test_a_beam_may_be_wider_than_the_nodes_of_a_tree_search() -> None:
    width = Width(beam=8, root=(1, 2), inner=(1, 1))
    _, tree = grow(SearchParameters(method="beam", critics={"noise": 1.0}, width=width))
    assert len(tree.root.children) > 2
    assert max(len(node.children) for node in tree.walk() if node.depth == 1) > 1


def test_a_beam_of_one_without_critics_is_the_greedy_trajectory() -> None:
    beam = solve(World(), SearchParameters(method="beam", width=Width(beam=1)))
    greedy = solve(World(), SearchParameters(method="greedy"))
    assert beam.trajectories[0].text == greedy.trajectories[0].text
    assert beam.trajectories[0].score is None


def test_candidates_are_ranked_by_likelihood_where_no_critic_can_tell() -> None:
    parameters = SearchParameters(method="beam", critics={"orm": 1.0}, width=Width(beam=3))
    result = solve(World(), parameters, rollouts_available=False)
    assert result.trajectories[0].scores.keys() == {"orm"}
    assert result.terminals == 3


@pytest.mark.parametrize("method", ["beam", "dvts"])
@pytest.mark.parametrize("tokens", [60, 80, 120, 200, 400])
def test_a_beam_is_as_wide_as_its_budget_can_see_through(method: Method, tokens: int) -> None:
    """At first an option may have 64 tokens, so that none of these budgets has room for four."""
    world = World(critic_noise=0.2)
    parameters = SearchParameters(
        method=method, critics={"value": 1.0, "orm": 1.0}, budget=Budget(tokens=tokens)
    )
    result = solve(world, parameters)
    assert (result.method, result.fallback) == (method, None), "it needs no ladder"
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}
    assert world.spent <= tokens + 10, "the answer's line is longer than any before it"
    if tokens in (120, 200):  # with more it comes to the end of what there is
        assert world.spent > 0.7 * tokens, "what is there is used"
        assert max(work.draws for work in world.done if isinstance(work, Extend)) > 1


def test_a_wider_beam_is_had_for_a_larger_budget() -> None:
    def nodes(tokens: int) -> int:
        parameters = SearchParameters(
            method="beam", critics={"noise": 1.0}, budget=Budget(tokens=tokens)
        )
        return solve(World(), parameters).nodes

    widths = [nodes(tokens) for tokens in (60, 100, 200, 300, 2000)]
    assert widths == sorted(widths)
    assert len(set(widths)) == len(widths)


def test_states_that_a_narrow_step_leaves_out_are_gone_on_with_afterwards() -> None:
    parameters = SearchParameters(
        method="beam", critics={"noise": 1.0}, width=Width(beam=2), budget=Budget(tokens=110)
    )
    _, tree = grow(parameters)
    ends = [node.id for node in tree.terminals]
    assert len(ends) == 2
    first, second = (node.path() for node in tree.terminals)
    late = next(node for node in second if node not in first and node.children)
    assert late.children[0].id > ends[0], "it was begun once the first was finished"


@pytest.mark.parametrize("method", ["beam", "dvts"])
def test_a_budget_that_affords_no_beam_is_finished_by_the_ladder(method: Method) -> None:
    world = World()
    parameters = SearchParameters(
        method=method, critics={"value": 1.0, "orm": 1.0}, budget=Budget(tokens=30)
    )
    result = solve(world, parameters)
    assert result.stop_reason == "tokens"
    assert result.fallback is not None
    assert (result.fallback.to, result.method) == ("sample", "sample")
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


@pytest.mark.parametrize(("nodes", "stop", "end"), [(3, "nodes", "length"), (20, None, "stop")])
def test_a_beam_keeps_to_the_nodes_that_it_may_make(nodes: int, stop: str | None, end: str) -> None:
    parameters = SearchParameters(
        method="beam", critics={"noise": 1.0}, budget=Budget(nodes=nodes), fallback=()
    )
    result = solve(World(), parameters)
    assert result.nodes <= nodes
    assert stop in (None, result.stop_reason)
    assert result.trajectories[0].finish_reason == end


@pytest.mark.parametrize("method", ["beam", "dvts", "best_first"])
def test_a_terminal_that_is_good_enough_ends_the_search(method: Method) -> None:
    """The policy may give up after any line, so that terminals come at many depths."""

    class Short(World):
        def _lines(self, tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
            numbers, begun = self._left(tokens)
            lines = super()._lines(tokens)
            if len(numbers) > 1 and not begun and len(tokens) > len(self.prompt):
                lines.append(((*map(ord, "stop"), EOS), 0.5))
            return lines

        def _left(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
            numbers, begun = super()._left(tokens)
            return numbers, "" if begun == "stop" else begun

    def search(score: float | None, shuffle: int | None = None) -> tuple[SearchResult, int]:
        parameters = SearchParameters(
            method=method,
            critics={"noise": 1.0},
            width=Width(beam=4),
            budget=Budget(simulations=200),
            stop_when=StopWhen(score=score, converged=False),
        )
        world = Short()
        return solve(world, parameters, shuffle=shuffle), world.spent

    whole, cost = search(None)
    best = whole.trajectories[0].score
    assert best is not None
    assert whole.stop_reason != "score"
    early, spent = search(0.3)
    assert early.stop_reason == "score"
    assert early.fallback is None
    assert (early.trajectories[0].score or 0.0) >= 0.3
    assert spent < cost
    assert search(0.3, shuffle=3)[0] == early
    assert search(best + 0.01)[0].stop_reason == whole.stop_reason, "nothing was good enough"

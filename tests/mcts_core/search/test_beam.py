from __future__ import annotations

from mcts_core.search.parameters import Budget, SearchParameters, Width
from mcts_core.search.work import Extend
from tests.mcts_core.search.world import World, grow, solve


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


def test_a_beam_within_a_small_budget_is_finished_by_the_ladder() -> None:
    world = World()
    parameters = SearchParameters(
        method="beam", critics={"value": 1.0, "orm": 1.0}, budget=Budget(tokens=60)
    )
    result = solve(world, parameters)
    assert result.stop_reason == "tokens"
    assert result.fallback is not None
    assert (result.fallback.to, result.method) == ("sample", "sample")
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


def test_a_beam_stops_at_the_nodes_that_it_may_make() -> None:
    parameters = SearchParameters(
        method="beam", critics={"value": 1.0}, budget=Budget(nodes=20), fallback=()
    )
    result = solve(World(), parameters)
    assert result.stop_reason == "nodes"
    assert result.trajectories[0].finish_reason == "length"

from __future__ import annotations

import pytest

from mcts_core.search.parameters import Budget, Method, SearchParameters, Step, Width
from mcts_core.search.work import Extend
from tests.mcts_core.search.driver import solve
from tests.mcts_core.search.world import World


def test_the_highest_score_of_all_samples_wins() -> None:
    world = World()
    parameters = SearchParameters(
        method="best_of_n", critics={"noise": 1.0}, width=Width(samples=6), include=("candidates",)
    )
    result = solve(world, parameters)
    assert len(result.candidates) == 6
    best = max(candidate.score or 0.0 for candidate in result.candidates)
    assert result.trajectories[0].score == best
    assert result.method == "best_of_n"
    assert world.held <= 2, "a trajectory's KV is given back once it is scored"


def test_as_many_samples_as_trajectories_are_drawn_at_least() -> None:
    parameters = SearchParameters(
        method="best_of_n", critics={"noise": 1.0}, width=Width(samples=2)
    )
    result = solve(World(), parameters, n=5)
    assert result.nodes == 6
    scores = [trajectory.score or 0.0 for trajectory in result.trajectories]
    assert scores == sorted(scores, reverse=True)


def test_no_sample_is_begun_beyond_the_token_budget() -> None:
    world = World()
    parameters = SearchParameters(
        method="best_of_n", width=Width(samples=50), budget=Budget(tokens=200), parallel=2
    )
    result = solve(world, parameters)
    assert result.stop_reason == "tokens"
    assert 200 - 60 <= world.spent <= 200 + 60
    tiny = SearchParameters(method="best_of_n", budget=Budget(tokens=1))
    assert solve(World(), tiny).trajectories[0].finish_reason == "stop"


@pytest.mark.parametrize("method", ["best_of_n", "self_consistency"])
def test_the_first_samples_keep_the_budget_although_their_cost_is_not_known(method: Method) -> None:
    world = World()
    parameters = SearchParameters(
        method=method,
        width=Width(samples=50),
        budget=Budget(tokens=200),
        parallel=16,
        step=Step(max_tokens=4),  # of an option: samples are no options
    )
    result = solve(world, parameters)
    assert result.stop_reason == "tokens"
    assert world.spent <= 200 + 60, "16 samples were begun at once"


def test_more_samples_than_the_root_may_have_children_are_drawn() -> None:
    world = World()
    parameters = SearchParameters(method="best_of_n", width=Width(samples=30, root=(1, 2)))
    assert solve(world, parameters).nodes == 31
    assert len({work.key for work in world.done if isinstance(work, Extend)}) == 30

from __future__ import annotations

from collections import Counter

import pytest

from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.work import FailureReason, Score, Work
from tests.mcts_core.search.driver import solve
from tests.mcts_core.search.world import World


def small(**fields: object) -> World:
    return World(numbers=(2, 3, 4), target=24, **fields)  # type: ignore[arg-type]


def last(text: str) -> str:
    return text.split("\n")[-1]


@pytest.mark.parametrize("seed", range(5))
def test_without_critics_the_majority_wins(seed: int) -> None:
    parameters = SearchParameters(
        method="self_consistency",
        width=Width(samples=15),
        include=("candidates",),
        stop_when=StopWhen(converged=False),
    )
    result = solve(small(), parameters, seed=seed)
    votes = Counter(last(candidate.text) for candidate in result.candidates)
    assert votes.total() == 15
    assert votes[last(result.trajectories[0].text)] == max(votes.values())
    assert (result.readout, result.stop_reason) == ("vote", "exhausted")
    assert (result.trajectories[0].score, result.method) == (None, "self_consistency")


def test_with_critics_votes_are_weighted() -> None:
    parameters = SearchParameters(
        method="self_consistency", critics={"orm": 1.0}, width=Width(samples=60)
    )
    result = solve(small(), parameters)
    assert last(result.trajectories[0].text) == "answer 24", "all others weigh nothing"
    assert result.trajectories[0].score == 1.0


@pytest.mark.parametrize("critics", [{}, {"noise": 1.0}, {"orm": 1.0}])
@pytest.mark.parametrize("seed", range(8))
def test_stopping_when_the_lead_is_safe_changes_nothing_but_the_cost(
    critics: dict[str, float], seed: int
) -> None:
    answers = []
    spent = []
    for converged in (True, False):
        world = small()
        parameters = SearchParameters(
            method="self_consistency",
            critics=critics,
            width=Width(samples=25),
            budget=Budget(tokens=100_000),
            parallel=2,
            stop_when=StopWhen(converged=converged),
        )
        result = solve(world, parameters, seed=seed)
        answers.append(last(result.trajectories[0].text))
        spent.append(world.spent)
        assert converged or result.stop_reason == "exhausted"
    assert answers[0] == answers[1]
    assert spent[0] <= spent[1]


def test_a_safe_lead_ends_the_search_as_converged() -> None:
    world = World(numbers=(2,), target=2)  # there is one answer only
    parameters = SearchParameters(
        method="self_consistency",
        width=Width(samples=20),
        budget=Budget(tokens=100_000),
        parallel=2,
    )
    result = solve(world, parameters)
    assert result.stop_reason == "converged"
    assert result.terminals == 11, "a majority of twenty"


def test_several_trajectories_are_drawn_to_the_end_and_give_different_answers_first() -> None:
    parameters = SearchParameters(method="self_consistency", width=Width(samples=20))
    result = solve(small(), parameters, n=3)
    assert result.stop_reason == "exhausted"
    assert len({last(trajectory.text) for trajectory in result.trajectories}) == 3


def test_a_critic_that_is_lost_leaves_the_majority() -> None:
    def fails(work: Work) -> FailureReason | None:
        return "critic_error" if isinstance(work, Score) else None

    parameters = SearchParameters(
        method="self_consistency",
        critics={"orm": 1.0},
        width=Width(samples=9),
        include=("candidates",),
    )
    result = solve(small(fails=fails), parameters)
    votes = Counter(last(candidate.text) for candidate in result.candidates)
    assert votes[last(result.trajectories[0].text)] == max(votes.values())
    assert result.details == {"critics_lost": {"orm": "the test says critic_error"}}


def test_no_sample_is_begun_beyond_the_token_budget() -> None:
    world = small()
    parameters = SearchParameters(
        method="self_consistency", width=Width(samples=500), budget=Budget(tokens=300), parallel=2
    )
    result = solve(world, parameters)
    assert result.stop_reason == "tokens"
    assert world.spent <= 300 + 60

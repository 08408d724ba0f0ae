from __future__ import annotations

from dataclasses import replace

import pytest

from mcts_core.search.parameters import Budget, SearchParameters
from mcts_core.search.search import SearchFailed, SearchResult
from mcts_core.search.work import Boundary, Extend, Extended, FailureReason, Work
from tests.mcts_core.search.driver import build, drive, solve
from tests.mcts_core.search.world import World


def extends(world: World) -> list[Extend]:
    return [work for work in world.done if isinstance(work, Extend)]


def test_samples_are_drawn_together_under_the_requests_own_sampling() -> None:
    world = World()
    search = build(world, SearchParameters(method="sample", temperature=0.1), n=3, temperature=1.3)
    (opening,) = search.start()
    works = search.deliver(opening, world.do(opening))
    assert [work.key for work in works] == [(0, 0), (1, 0), (2, 0)]  # type: ignore[union-attr]
    for work in works:
        assert isinstance(work, Extend)
        assert work.sampling.temperature == 1.3
        assert work.boundary == Boundary()
        assert work.stream is None


def test_samples_are_in_the_order_of_their_choices_whatever_their_scores() -> None:
    parameters = SearchParameters(method="sample", critics={"noise": 1.0})
    for shuffle in range(3):
        world = World()
        result = solve(world, parameters, n=4, shuffle=shuffle)
        assert len(result.trajectories) == 4
        assert result.method == "sample"
        by_key = {}
        for work in extends(world):
            drawn = World().do(Extend(work.state, work.sampling, work.key))
            assert isinstance(drawn, Extended)
            by_key[work.key[0]] = drawn.options[0].tokens
        assert [t.tokens for t in result.trajectories] == [by_key[i] for i in range(4)]
        assert all(t.scores.keys() == {"noise"} for t in result.trajectories)


def test_equal_samples_are_all_returned() -> None:
    result = solve(World(), SearchParameters(method="sample"), n=3, temperature=0.001)
    assert len(result.trajectories) == 3
    assert len({trajectory.text for trajectory in result.trajectories}) == 1


def test_streamed_samples_carry_their_choice() -> None:
    world = World()
    solve(world, SearchParameters(method="sample"), n=2, stream=True)
    assert [work.stream for work in extends(world)] == [0, 1]


def test_greedy_is_one_trajectory_at_temperature_zero() -> None:
    world = World()
    result = solve(world, SearchParameters(method="greedy", critics={"orm": 1.0}), n=3)
    assert len(result.trajectories) == 1
    assert [work.sampling.temperature for work in extends(world)] == [0.0]
    assert result.trajectories[0].scores.keys() == {"orm"}
    assert result.stop_reason == "exhausted"


def test_max_tokens_cut_a_sample_short() -> None:
    result = solve(World(), SearchParameters(method="sample"), max_tokens=5)
    assert result.trajectories[0].finish_reason == "length"
    assert len(result.trajectories[0].tokens) == 5


def test_no_budget_but_the_deadline_keeps_a_sample_back() -> None:
    budget = Budget(simulations=1, tokens=1, nodes=1)
    result = solve(World(), SearchParameters(method="sample", budget=budget), n=3)
    assert len(result.trajectories) == 3


def fails_once(key: int, reason: FailureReason = "kv_exhausted") -> World:
    failed: list[Work] = []

    def fails(work: Work) -> FailureReason | None:
        if isinstance(work, Extend) and work.key[0] == key and not failed:
            failed.append(work)
            return reason
        return None

    return World(fails=fails)


@pytest.mark.parametrize("method", ["sample", "best_of_n"])
def test_a_sample_that_found_the_pool_full_is_drawn_again(method: str) -> None:
    parameters = SearchParameters.model_validate({"method": method})
    assert solve(fails_once(1), parameters, n=3) == solve(World(), parameters, n=3)


def test_a_streamed_choice_is_not_silently_left_out() -> None:
    world = fails_once(1)
    result = drive(build(world, SearchParameters(method="sample"), n=3, stream=True), world)
    assert isinstance(result, SearchFailed)
    assert result.reason == "kv_exhausted"


def test_a_deadline_returns_choices_as_far_as_they_came() -> None:
    for method in ("sample", "best_of_n", "greedy"):
        world = World()
        search = build(world, SearchParameters.model_validate({"method": method}), n=1)
        (opening,) = search.start()
        extends_ = [w for w in search.deliver(opening, world.do(opening)) if isinstance(w, Extend)]
        begun: list[tuple[Extend, Extended]] = []
        for work in extends_[:2]:
            whole = world.do(work)
            assert isinstance(whole, Extended)
            (option,) = whole.options
            cut = replace(option, tokens=option.tokens[:3], text=option.text[:3], finish="length")
            begun.append((work, Extended((cut,), 3)))
        search.expire(begun)
        result = search.result
        assert isinstance(result, SearchResult), method
        assert result.stop_reason == "deadline"
        assert result.trajectories[0].finish_reason == "length"
        assert len(result.trajectories[0].text) == 3

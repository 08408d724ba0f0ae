from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.parameters import (
    Budget,
    Method,
    Rollouts,
    Rung,
    SearchParameters,
    Step,
    StopWhen,
    Width,
)
from mcts_core.search.search import SearchFailed, SearchResult
from mcts_core.search.work import (
    Extend,
    FailureReason,
    Open,
    Rollout,
    Work,
)
from tests.mcts_core.search.driver import Clock, build, drive, grow, solve
from tests.mcts_core.search.world import World, noise

VALUE = {"value": 1.0, "orm": 1.0}
ON = StopWhen(converged=False)
LONGEST = 12
"""More tokens than any option of the world has."""
WORK = Open(())


@settings(max_examples=100, deadline=None)
@given(
    method=st.sampled_from(["mcts", "best_first", "beam", "dvts", "best_of_n", "self_consistency"]),
    critics=st.sampled_from([{}, {"orm": 1.0}, VALUE]),
    readers=st.sampled_from([(), ("orm",), ("value", "orm")]),
    rollouts=st.integers(0, 2),
    tokens=st.integers(1, 700),
    step=st.integers(2, 64),
    max_tokens=st.integers(10, 100),
    parallel=st.integers(1, 8),
    width=st.integers(1, 5),
    fallback=st.sampled_from([(), ("beam", "sample")]),
    order=st.integers(0, 99),
)
def test_what_is_spent_is_never_more_than_the_budget(
    method: Method,
    critics: dict[str, float],
    readers: tuple[str, ...],
    rollouts: int,
    tokens: int,
    step: int,
    max_tokens: int,
    parallel: int,
    width: int,
    fallback: tuple[Rung, ...],
    order: int,
) -> None:
    """The prompt has to be read, and where nothing is finished the ladder may cost what one plain
    completion costs. What is returned is scored, also by critics who have to read it for that."""
    world = World(critic_noise=0.5, readers=frozenset(readers))
    parameters = SearchParameters(
        method=method,
        critics=critics,
        rollouts=Rollouts(count=rollouts, max_tokens=40),
        budget=Budget(tokens=tokens),
        parallel=parallel,
        stop_when=ON,
        step=Step(max_tokens=step),
        width=Width(root=(width, 2 * width), inner=(1, 3), beam=width, subtrees=2, samples=9),
        fallback=fallback,
    )
    result = drive(build(world, parameters, max_tokens=max_tokens), world, shuffle=order)
    read = set(readers) & set(critics)
    opening = next(work for work in world.done if isinstance(work, Open))
    prompt = len(world.prompt) * (1 + len(read.intersection(opening.critics)))
    most = max(tokens, prompt)
    if isinstance(result, SearchFailed):
        assert result.reason == "budget"
        assert not fallback
    elif result.fallback is not None:
        most = max(most, prompt + max_tokens)
    assert world.spent <= most + len(read) * (len(world.prompt) + max_tokens)
    if not read:
        assert world.spent <= most


def test_what_the_budget_has_torn_off_is_no_step() -> None:
    """The line has 6 tokens; there is room for the prompt and 3 more."""
    world = World()
    parameters = SearchParameters(
        critics={"value": 1.0}, budget=Budget(tokens=len(world.prompt) + 3), fallback=()
    )
    search, tree = grow(parameters, world=world)
    assert isinstance(search.result, SearchResult)
    assert world.spent == len(world.prompt) + 3
    (torn,) = tree.root.children
    assert (torn.end, len(torn.tokens)) == ("length", 3)
    assert not tree.root.avoid, "the line may still be drawn as a whole"
    assert search.result.trajectories[0].finish_reason == "length"
    assert search.result.stop_reason == "tokens"


def test_a_budget_that_leaves_nothing_says_so() -> None:
    parameters = SearchParameters(budget=Budget(tokens=3), fallback=())
    world = World()
    result = drive(build(world, parameters), world)
    assert isinstance(result, SearchFailed)
    assert result.reason == "budget"
    assert "search.budget.tokens" in str(result)


def test_fewer_options_are_drawn_before_any_is_torn() -> None:
    """Once it is known how long options are, those that are drawn together have room for that."""
    for tokens in range(60, 260, 7):
        world = World(critic_noise=0.5)
        parameters = SearchParameters(
            critics=VALUE, budget=Budget(tokens=tokens), parallel=4, stop_when=ON
        )
        _, tree = grow(parameters, world=world)
        torn = [
            node
            for node in tree.walk()
            if node.end == "length" and node.tokens[-1] != ord("\n") and node.origin == "mcts"
        ]
        assert len(torn) <= 1, "only the last one has less"


def test_rollouts_are_left_out_where_the_budget_has_no_room_for_them() -> None:
    parameters = SearchParameters(
        critics={"orm": 1.0}, rollouts=Rollouts(count=2), budget=Budget(tokens=150), stop_when=ON
    )
    world = World(critic_noise=0.5)
    solve(world, parameters)
    assert not any(isinstance(work, Rollout) for work in world.done), "each may have 128 tokens"
    world = World(critic_noise=0.5)
    fitting = Rollouts(count=2, max_tokens=40)
    solve(world, parameters.model_copy(update={"rollouts": fitting}))
    assert any(isinstance(work, Rollout) for work in world.done)
    assert world.spent <= 150


@given(simulations=st.integers(1, 60), parallel=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_simulations_are_kept_exactly(simulations: int, parallel: int) -> None:
    parameters = SearchParameters(
        critics=VALUE, budget=Budget(simulations=simulations), parallel=parallel, stop_when=ON
    )
    search, _ = grow(parameters, world=World(critic_noise=0.5))
    assert search._meter.launched == simulations
    assert isinstance(search.result, SearchResult)
    if search.result.fallback is None:
        assert search.result.simulations == simulations
    else:
        assert search.result.fallback.at_simulation == simulations


@given(nodes=st.integers(2, 60), parallel=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_nodes_are_kept(nodes: int, parallel: int) -> None:
    parameters = SearchParameters(
        critics=VALUE, budget=Budget(nodes=nodes), parallel=parallel, stop_when=ON, fallback=()
    )
    search, tree = grow(parameters, world=World(critic_noise=0.5))
    assert isinstance(search.result, SearchResult)
    assert search.result.stop_reason == "nodes"
    assert tree.nodes <= nodes


@pytest.mark.parametrize(
    ("budget", "most"),
    [(Budget(nodes=4), 3), (Budget(nodes=2), 1), (Budget(tokens=45), 2), (Budget(tokens=10), 1)],
)
def test_no_more_options_are_drawn_together_than_the_budget_has_room_for(
    budget: Budget, most: int
) -> None:
    world = World()
    parameters = SearchParameters(
        critics=VALUE, budget=budget, step=Step(max_tokens=LONGEST), width=Width(root=(6, 6))
    )
    search = build(world, parameters)
    (opening,) = search.start()
    (work,) = search.deliver(opening, world.do(opening))
    assert isinstance(work, Extend)
    assert work.draws == most


def test_whichever_limit_comes_first_is_the_reason() -> None:
    def reason(**budget: int) -> str:
        parameters = SearchParameters(critics=VALUE, budget=Budget(**budget), stop_when=ON)
        return solve(World(critic_noise=0.5), parameters).stop_reason

    assert reason(simulations=5, tokens=5000, nodes=500) == "simulations"
    assert reason(simulations=500, tokens=400, nodes=500) == "tokens"
    assert reason(simulations=500, tokens=5000, nodes=9) == "nodes"


@pytest.mark.parametrize("tokens", [1, 50, 100, 150])
def test_room_is_left_to_finish_while_there_is_no_terminal(tokens: int) -> None:
    world = World(critic_noise=0.5)
    parameters = SearchParameters(
        critics=VALUE, budget=Budget(tokens=tokens), step=Step(max_tokens=LONGEST), parallel=2
    )
    result = solve(world, parameters)
    assert result.trajectories[0].finish_reason == "stop"
    assert result.fallback is not None
    assert result.fallback.reason == "budget"
    assert result.stop_reason == "tokens"


@pytest.mark.parametrize("parallel", [1, 4, 16, 40])
@pytest.mark.parametrize("rollouts", [0, 1])
@pytest.mark.parametrize("tokens", [150, 200, 300])
def test_whatever_is_in_flight_leaves_room_to_finish(
    tokens: int, rollouts: int, parallel: int
) -> None:
    """First options at once, redraws of what has merged, and rollouts could take it all. A path
    takes about 30 tokens, the prompt 16."""
    world = World(critic_noise=0.5)
    parameters = SearchParameters(
        critics=VALUE,
        budget=Budget(tokens=tokens),
        stop_when=ON,
        rollouts=Rollouts(count=rollouts),
        width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
        parallel=parallel,
    )
    result = solve(world, parameters, max_tokens=60)
    assert world.spent <= tokens
    assert result.trajectories[0].finish_reason == "stop"


@pytest.mark.parametrize("parallel", [1, 4])
def test_rollouts_tell_how_long_a_trajectory_is(parallel: int) -> None:
    """A path takes about 30 tokens, but after the first option nothing in the tree says so."""
    parameters = SearchParameters(
        critics={"orm": 1.0},
        rollouts=Rollouts(count=1, max_tokens=60),
        budget=Budget(tokens=200, simulations=2),
        fallback=(),
        parallel=parallel,
        stop_when=ON,
    )
    _, tree = grow(parameters, world=World(critic_noise=0.5), max_tokens=60)
    assert not tree.finished
    assert tree.longest > 25
    whole = parameters.model_copy(
        update={"budget": Budget(tokens=200), "fallback": SearchParameters().fallback}
    )
    result = solve(World(critic_noise=0.5), whole, max_tokens=60)
    assert result.trajectories[0].finish_reason == "stop"


def test_a_search_that_has_a_terminal_uses_its_budget_up() -> None:
    world = World(critic_noise=0.5)
    parameters = SearchParameters(critics=VALUE, budget=Budget(tokens=1500), stop_when=ON)
    result = solve(world, parameters)
    assert result.fallback is None
    assert result.stop_reason == "tokens"
    assert 1500 - 2 * LONGEST <= world.spent <= 1500 + 8 * LONGEST


def test_the_first_simulation_is_timed_from_admission() -> None:
    clock = Clock(tick=0.5)
    world = World()
    search = build(world, SearchParameters(critics={"value": 1.0}), clock=clock)
    result = drive(search, world, clock=clock)
    assert isinstance(result, SearchResult)
    assert result.first_simulation_seconds == 1.0  # the prompt and the first options


def test_a_critic_that_fails_again_and_again_costs_no_more_than_the_budget() -> None:
    """What it has to read is paid for whenever it is asked: beside the draws, after them, alone."""
    for seed in range(12):
        for tokens in (120, 200, 300):

            def fails(work: Work, seed: int = seed) -> FailureReason | None:
                if not isinstance(work, Extend) or not work.critics:
                    return None
                return "critic_error" if noise("f", seed, work.key, work.critics) < 0.5 else None

            world = World(critic_noise=0.5, readers=frozenset(("value",)), fails=fails)
            parameters = SearchParameters(
                critics={"value": 1.0},
                budget=Budget(tokens=tokens),
                parallel=8,
                fallback=(),
                stop_when=StopWhen(converged=False),
            )
            drive(build(world, parameters, seed=seed, max_tokens=60), world)
            assert world.spent <= tokens

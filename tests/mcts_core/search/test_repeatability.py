from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods import METHODS
from mcts_core.search.parameters import (
    Budget,
    Merge,
    Method,
    Rollouts,
    SearchParameters,
    Select,
    StopWhen,
    Width,
)
from mcts_core.search.readout import Readout
from tests.mcts_core.search.driver import build, drive, grow, picture
from tests.mcts_core.search.world import World

CRITICS = st.sampled_from(
    [{}, {"value": 1.0}, {"orm": 1.0}, {"value": 0.7, "noise": 0.3, "orm": 1.0}]
)
PARAMETERS = st.builds(
    lambda critics, simulations, tokens, parallel, rule, rollouts, readout, threshold, root, back: (
        SearchParameters(
            critics=critics,
            budget=Budget(simulations=simulations, tokens=tokens),
            parallel=parallel,
            select=Select(rule=rule),
            rollouts=Rollouts(count=rollouts),
            readout=readout,
            merge=Merge(threshold=threshold),
            stop_when=StopWhen(converged=False),
            width=Width(root=root),
            backup=back,
        )
    ),
    critics=CRITICS,
    simulations=st.integers(1, 40),
    tokens=st.none() | st.integers(1, 600),
    parallel=st.integers(1, 8),
    rule=st.sampled_from(["uct", "puct"]),
    rollouts=st.integers(0, 2),
    readout=st.sampled_from(["best", "visits", "value", "vote"]),
    threshold=st.sampled_from([0.0, 0.4]),
    root=st.sampled_from([(1, 2), (2, 4), (4, 16)]),
    back=st.sampled_from(["mean", "max"]),
)


@settings(max_examples=60, deadline=None)
@given(
    parameters=PARAMETERS,
    noise=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 3),
    order=st.integers(0, 2**32),
)
def test_the_tree_does_not_depend_on_the_order_in_which_outcomes_arrive(
    parameters: SearchParameters, noise: float, seed: int, order: int
) -> None:
    worlds = [World(critic_noise=noise), World(critic_noise=noise)]
    search, tree = grow(parameters, world=worlds[0], seed=seed)
    shuffled, same = grow(parameters, world=worlds[1], seed=seed, shuffle=order)
    assert picture(tree) == picture(same)
    assert search.result == shuffled.result
    assert worlds[0].spent == worlds[1].spent


@settings(max_examples=30, deadline=None)
@given(
    method=st.sampled_from([name for name in METHODS if name != "mcts"]),
    critics=CRITICS,
    seed=st.integers(0, 3),
    order=st.integers(0, 2**32),
    tokens=st.none() | st.integers(1, 600),
    readout=st.sampled_from(["best", "vote"]),
)
def test_the_other_methods_do_not_depend_on_the_order_either(
    method: Method,
    critics: dict[str, float],
    seed: int,
    order: int,
    tokens: int | None,
    readout: Readout,
) -> None:
    parameters = SearchParameters(
        method=method, critics=critics, budget=Budget(tokens=tokens), readout=readout
    )
    results = [
        drive(build(World(), parameters, seed=seed, n=2), world, shuffle=shuffle)
        for world, shuffle in ((World(), None), (World(), order))
    ]
    assert results[0] == results[1]


def test_another_seed_grows_another_tree() -> None:
    parameters = SearchParameters(critics={"value": 1.0}, budget=Budget(simulations=20))
    pictures = [picture(grow(parameters, seed=seed)[1]) for seed in range(2)]
    assert pictures[0] != pictures[1]

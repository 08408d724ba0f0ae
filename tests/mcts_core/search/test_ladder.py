from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.backup import backup
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.ladder import Ladder
from mcts_core.search.methods import METHODS
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchFailed, SearchResult
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import (
    Extend,
    Extended,
    FailureReason,
    Open,
    Rollout,
    Score,
    Work,
)
from tests.mcts_core.search.driver import build, drive, grow, meters, solve, task
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World, WorldState, text

CRITICS = {"value": 1.0, "orm": 1.0}


def test_a_budget_without_a_terminal_is_finished_from_the_best_nodes() -> None:
    world = World()
    parameters = SearchParameters(critics=CRITICS, budget=Budget(simulations=12))
    _, tree = grow(parameters, world=world)
    result = solve(World(), parameters)
    assert result.fallback is not None
    assert (result.fallback.to, result.fallback.reason) == ("beam", "budget")
    assert (result.method, result.requested_method) == ("beam", "mcts")
    assert result.fallback.at_simulation == 12
    beams = [node for node in tree.walk() if node.origin == "beam"]
    assert any(node.parent is not None and node.parent.origin == "mcts" for node in beams)
    opened = [work for work in world.done if isinstance(work, Open)]
    assert len(opened) == 1
    assert all(node.depth > 1 for node in beams), "it goes on from nodes, not from the prompt"


def test_what_cannot_be_finished_any_more_is_nothing_to_start_from() -> None:
    """The best nodes may be shallow ones, and a whole trajectory more than there is left."""
    for tokens in range(50, 200, 5):
        world = World(critic_noise=0.5)
        parameters = SearchParameters(
            critics=CRITICS,
            budget=Budget(tokens=tokens),
            stop_when=StopWhen(converged=False),
            width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
            parallel=1,
        )
        result = solve(world, parameters, max_tokens=60)
        assert result.trajectories[0].finish_reason == "stop"
        prompt = len(world.prompt)
        assert world.spent <= max(tokens, prompt + 60)


class Dive:
    """A tree with two paths, `aaaaaaaaaa` worth 0.6 and `bbbbbbbbbb` worth 0.5, and so many tokens
    left that the better one can be finished: 30, and up to 20 more than the budget has."""

    def __init__(self, spent: int = 70) -> None:
        parameters = SearchParameters(critics={"value": 1.0}, budget=Budget(tokens=100))
        asked = task(parameters, max_tokens=200)
        outbox: list[Work] = []
        meter, outlook = meters(parameters, asked.max_tokens)
        self.meter = meter
        evaluation = Evaluation(asked, meter, outlook, outbox)
        width = AdaptiveWidth(parameters.width)
        expansion = Expansion(asked, width, evaluation, meter, outlook, outbox)
        self.ladder = Ladder(parameters, 200, expansion, evaluation, meter, outlook)
        self.tree = new_tree()
        options = (option("a" * 10), option("b" * 10))
        meter.commit(Open(()), Extended(options, spent=20))
        meter.spent = spent
        for each, score in zip(options, (0.6, 0.5), strict=True):
            child = self.tree.add(self.tree.root, each, None, "mcts")
            evaluation.evaluate(self.tree, child, {"value": score})
            backup(self.tree, child.path(), score)
        self.tree.root.closed = True

    def run(self, *scores: float) -> list[str]:
        """Below which paths options of 10 tokens are drawn that are worth so much, one after the
        other; the last one ends its trajectory."""
        steps = self.ladder.descend(self.tree, "budget", ["beam"], lambda tree: False)
        places: list[str] = []
        (work,) = next(steps)
        for index, score in enumerate(scores):
            assert isinstance(work, Extend)
            places.append(text(tuple(work.state.tokens)))
            drawn = option(f"{index}" * 10, scores={"value": score})
            if index == len(scores) - 1:
                drawn = replace(drawn, finish="eos")
            drawn = replace(drawn, state=WorldState((*work.state.tokens, *drawn.tokens)))
            outcome = Extended((drawn,), spent=10)
            self.meter.commit(work, outcome)
            try:
                (work,) = steps.send((outcome,))
            except StopIteration:
                assert index == len(scores) - 1
        return places


def test_a_path_that_leads_nowhere_is_left_for_another() -> None:
    a, b = "a" * 10, "b" * 10
    assert Dive().run(0.7, 0.8, 0.9) == [a, a + "0" * 10, a + "0" * 10 + "1" * 10]
    assert Dive().run(0.0, 0.6, 0.7, 0.8) == [a, b, b + "1" * 10, b + "1" * 10 + "2" * 10]


def test_a_path_that_is_worth_more_again_is_come_back_to() -> None:
    """A node with children is worth the mean of itself and of these."""
    a, b = "a" * 10, "b" * 10
    assert Dive().run(0.3, 0.2, 0.4, 0.8)[:3] == [a, b, a]


def test_without_room_for_another_path_the_one_begun_is_finished() -> None:
    a = "a" * 10
    places = Dive(spent=95).run(0.0, 0.0, 0.0)
    assert places == [a, a + "0" * 10, a + "0" * 10 + "1" * 10]


@pytest.mark.parametrize("tokens", [None, 100_000])
def test_a_limit_of_nodes_is_gone_beyond_by_one_path_at_most(tokens: int | None) -> None:
    """Only tokens say how long one may look for a better one."""
    for nodes in range(2, 30, 3):
        parameters = SearchParameters(
            critics=CRITICS, budget=Budget(nodes=nodes, tokens=tokens), parallel=1
        )
        search, tree = grow(parameters, world=World(numbers=(2, 3, 4, 6, 7), critic_noise=0.9))
        assert isinstance(search.result, SearchResult)
        assert search.result.trajectories[0].finish_reason == "stop"
        assert tree.nodes <= nodes + tree.depth


def test_a_rung_ends_with_what_is_good_enough() -> None:
    """The first of its beams to finish may be; the others would only cost."""
    spent = []
    for score in (None, 0.1):
        world = World(critic_noise=0.5)
        parameters = SearchParameters(
            critics=CRITICS,
            budget=Budget(simulations=4),
            stop_when=StopWhen(converged=False, score=score),
        )
        result = solve(world, parameters)
        assert result.fallback is not None
        spent.append(world.spent)
    assert spent[1] < spent[0]


def test_without_a_ladder_the_best_unfinished_node_is_returned_scored() -> None:
    parameters = SearchParameters(critics=CRITICS, budget=Budget(simulations=6), fallback=())
    result = solve(World(), parameters)
    assert result.fallback is None
    assert result.trajectories[0].finish_reason == "length"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}
    assert result.method == "mcts"


def test_the_sample_rung_completes_nodes_and_has_them_scored() -> None:
    parameters = SearchParameters(
        critics=CRITICS, budget=Budget(simulations=6), fallback=("sample",)
    )
    result = solve(World(), parameters)
    assert result.fallback is not None
    assert result.fallback.to == result.method == "sample"
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


def test_what_the_depth_limit_cut_off_is_completed_by_sampling() -> None:
    parameters = SearchParameters(critics=CRITICS, max_depth=2, budget=Budget(simulations=500))
    result = solve(World(), parameters)
    assert result.stop_reason == "exhausted"
    assert result.fallback is not None
    assert (result.fallback.to, result.fallback.reason) == ("sample", "exhausted")
    assert result.trajectories[0].finish_reason == "stop"


def test_what_max_tokens_cut_off_is_an_unfinished_answer() -> None:
    parameters = SearchParameters(critics=CRITICS, budget=Budget(simulations=5000))
    result = solve(World(), parameters, max_tokens=14)
    assert result.stop_reason == "exhausted"
    assert result.fallback is None, "there is nothing that a ladder could add"
    assert result.trajectories[0].finish_reason == "length"
    assert len(result.trajectories[0].tokens) == 14
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


def test_what_the_context_cut_off_is_an_unfinished_answer() -> None:
    world = World(context=len(World().prompt) + 14)
    result = solve(world, SearchParameters(critics=CRITICS))
    assert result.trajectories[0].finish_reason == "length"
    assert len(result.trajectories[0].tokens) == 14
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


def full_from(count: int, until: int | None = None) -> World:
    """The pool is full from the given piece of work on."""
    seen: list[Work] = []

    def fails(work: Work) -> FailureReason | None:
        seen.append(work)
        full = len(seen) > count and (until is None or len(seen) <= until)
        return "kv_exhausted" if full and not isinstance(work, Score) else None

    return World(critic_noise=0.5, fails=fails)


def test_a_full_pool_leads_down_the_ladder_after_cold_states_are_given_back() -> None:
    world = full_from(30, until=38)
    held: list[int] = []
    full = world.fails

    def fails(work: Work) -> FailureReason | None:
        if isinstance(work, Extend) and len(world.done) > 39:
            held.append(world.held)
        return full(work)

    world.fails = fails
    search, _ = grow(SearchParameters(critics=CRITICS), world=world)
    result = search.result
    assert not isinstance(result, SearchFailed)
    assert result is not None
    assert result.stop_reason == "kv_exhausted"
    assert result.fallback is not None
    assert (result.fallback.to, result.fallback.reason) == ("beam", "kv_exhausted")
    assert result.trajectories[0].finish_reason == "stop"
    assert held[0] <= 4 + 1, "only what the beam starts from is left, and its first option"


def test_a_terminal_that_was_found_is_not_lost_when_the_ladder_fails() -> None:
    parameters = SearchParameters(
        critics={"noise": 1.0}, budget=Budget(simulations=300), stop_when=StopWhen(converged=False)
    )
    world = full_from(150)
    search, tree = grow(parameters, world=world)
    found = max(node.score or 0.0 for node in tree.terminals)
    result = search.result
    assert not isinstance(result, SearchFailed)
    assert result is not None
    assert result.stop_reason == "kv_exhausted"
    assert result.method == "mcts"
    assert result.trajectories[0].score == found


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(list(METHODS)),
    chance=st.sampled_from([0.02, 0.1, 0.3, 1.0]),
    reasons=st.sampled_from(
        [
            ("kv_exhausted",),
            ("critic_error",),
            ("numeric", "internal"),
            ("kv_exhausted", "critic_error", "numeric", "context_length", "internal"),
        ]
    ),
    seed=st.integers(0, 2**32),
    fallback=st.sampled_from([(), ("beam",), ("sample",), ("beam", "sample")]),
)
def test_failures_at_random_moments_end_in_a_result_or_a_reason(
    method: str,
    chance: float,
    reasons: tuple[FailureReason, ...],
    seed: int,
    fallback: tuple[str, ...],
) -> None:
    rng = random.Random(seed)

    def fails(work: Work) -> FailureReason | None:
        if isinstance(work, Open):
            return None
        return rng.choice(reasons) if rng.random() < chance else None

    world = World(critic_noise=0.5, fails=fails)
    parameters = SearchParameters.model_validate(
        {
            "method": method,
            "critics": CRITICS,
            "fallback": fallback,
            "rollouts": {"count": 1},
            "budget": {"simulations": 40},
        }
    )
    result = drive(build(world, parameters), world, shuffle=seed)
    if isinstance(result, SearchFailed):
        assert result.reason in reasons
    else:
        assert result.trajectories
        lost = set(result.details["critics_lost"]) if result.details else set()
        if reasons == ("critic_error",):
            assert result.trajectories[0].scores.keys() >= CRITICS.keys() - lost


@pytest.mark.parametrize("reason", ["kv_exhausted", "context_length", "internal", "numeric"])
@pytest.mark.parametrize("method", ["mcts", "greedy"])
def test_a_prompt_that_cannot_be_computed_is_a_failure_with_its_reason(
    reason: FailureReason, method: str
) -> None:
    world = World(fails=lambda work: reason if isinstance(work, Open) else None)
    search = build(world, SearchParameters.model_validate({"method": method}))
    result = drive(search, world)
    assert isinstance(result, SearchFailed)
    assert result.reason == reason
    assert reason in str(result)


def test_nothing_at_all_is_a_failure_with_the_engines_reason() -> None:
    world = World(fails=lambda work: "numeric" if isinstance(work, Extend) else None)
    result = drive(build(world, SearchParameters()), world)
    assert isinstance(result, SearchFailed)
    assert result.reason == "numeric"


def test_rollouts_are_the_first_thing_to_go() -> None:
    world = World()
    parameters = SearchParameters.model_validate(
        {"critics": CRITICS, "rollouts": {"count": 2}, "budget": {"simulations": 8}}
    )
    _, tree = grow(parameters, world=world)
    beams = {node.id for node in tree.walk() if node.origin == "beam"}
    assert beams
    rolled = {work.key[0] for work in world.done if isinstance(work, Rollout)}
    assert not beams & rolled

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.search.evaluation import Evaluation
from mcts_core.search.parameters import (
    Budget,
    Method,
    Rollouts,
    SearchParameters,
    StopWhen,
    Width,
)
from mcts_core.search.search import SearchFailed, SearchResult
from mcts_core.search.work import (
    Extend,
    FailureReason,
    Open,
    Rollout,
    Score,
    Work,
)
from tests.mcts_core.search.driver import build, drive, grow, meters, solve, task
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World

ALL = {"value": 0.5, "noise": 0.25, "orm": 0.25}


def evaluation(critics: dict[str, float], **parameters: object) -> Evaluation:
    search = SearchParameters.model_validate({"critics": critics, **parameters})
    asked = task(
        search, outcome_critics=("orm",), process_critics=("prm",), rollouts_available=True
    )
    return Evaluation(asked, *meters(search), [])


@given(
    scores=st.dictionaries(st.sampled_from(sorted(ALL)), st.floats(-10, 10), min_size=1),
)
def test_the_mixture_lies_within_the_scores_it_is_made_of(scores: dict[str, float]) -> None:
    mixed = evaluation(ALL).mix(scores)
    assert mixed is not None
    assert min(scores.values()) - 1e-9 <= mixed <= max(scores.values()) + 1e-9


def test_the_mixture_is_the_weighted_mean_over_those_who_scored() -> None:
    own = evaluation(ALL)
    assert own.mix({"value": 1.0, "noise": 0.0, "orm": 1.0}) == 0.75
    assert own.mix({"value": 0.9, "noise": 0.3}) == pytest.approx((0.45 + 0.075) / 0.75)
    assert own.mix({}) is None
    assert evaluation({"value": 0.0}).mix({"value": 1.0}) is None, "it is reported, not mixed"


@pytest.mark.parametrize(
    ("process", "expected"), [("last", [0.5, 0.8, 0.95]), ("min", [0.5, 0.75, 0.8])]
)
def test_a_process_critic_may_say_the_worst_of_the_way(process: str, expected: list[float]) -> None:
    own = evaluation({"prm": 1.0, "value": 1.0}, process=process)
    tree = new_tree()
    tree.root.scores = {"prm": 0.1, "value": 0.1}  # the prompt is no step
    node, mixed = tree.root, []
    for prm, value in ((0.6, 0.4), (0.7, 0.9), (0.9, 1.0)):
        node = tree.add(node, option(f"{prm}"), None, "mcts")
        node.scores = {"prm": prm, "value": value}
        own.note(tree, node)
        mixed.append(node.score)
    assert mixed == pytest.approx(expected)


def test_outcome_critics_are_asked_at_ends_only() -> None:
    world = World()
    _, tree = grow(SearchParameters(critics=ALL), world=world)
    for work in world.done:
        if isinstance(work, Open | Extend):
            assert work.critics == ("value", "noise")
        if isinstance(work, Score):
            assert work.critics == ("orm",)
    for node in tree.walk():
        if node.end == "stop":
            assert set(node.scores) == set(ALL)
        elif node.end is None:
            assert set(node.scores) == {"value", "noise"}


def test_rollouts_score_unfinished_states_for_the_outcome_critics() -> None:
    world = World()
    parameters = SearchParameters(
        critics={"value": 1.0, "orm": 1.0},
        rollouts=Rollouts(count=4, temperature=0.5),
        stop_when=StopWhen(converged=False),
    )
    _, tree = grow(parameters, world=world)
    for node in tree.walk():
        if node.end is None and node.origin == "mcts":
            assert set(node.scores) == {"value", "orm"}
            assert node.scores["orm"] in (0.0, 0.25, 0.5, 0.75, 1.0)
            assert node.score == (node.scores["value"] + node.scores["orm"]) / 2
    rolled = [work for work in world.done if isinstance(work, Rollout)]
    assert {work.sampling.temperature for work in rolled} == {0.5}
    drawn = {work.key for work in world.done if isinstance(work, Extend)}
    assert not drawn & {work.key for work in rolled}, "the noise of the two must differ"


def test_there_are_no_rollouts_without_a_model_or_a_critic_for_them() -> None:
    for critics, available in (({"value": 1.0}, True), ({"orm": 1.0}, False)):
        world = World()
        parameters = SearchParameters(critics=critics, rollouts=Rollouts(count=2))
        solve(world, parameters, rollouts_available=available)
        assert not any(isinstance(work, Rollout) for work in world.done)


def test_a_failed_rollout_does_not_count() -> None:
    def fails(work: Work) -> FailureReason | None:
        return "kv_exhausted" if isinstance(work, Rollout) and work.key[1] == -1 else None

    parameters = SearchParameters(critics={"orm": 1.0}, rollouts=Rollouts(count=2))
    search, tree = grow(parameters, world=World(fails=fails))
    assert isinstance(search.result, SearchResult)
    assert search.result.fallback is None or search.result.fallback.reason == "budget"
    assert {node.scores["orm"] for node in tree.walk() if node.end is None} <= {0.0, 1.0}


def critic_fails(
    name: str,
    kinds: type | tuple[type, ...] = (Open, Extend, Score),
    reason: FailureReason = "critic_error",
) -> World:
    def fails(work: Work) -> FailureReason | None:
        asked = getattr(work, "critics", ())
        return reason if isinstance(work, kinds) and name in asked else None

    return World(numbers=(2, 3, 4), target=24, fails=fails)


@pytest.mark.parametrize("fallback", [(), ("beam", "sample")])
@pytest.mark.parametrize("method", ["mcts", "beam", "best_of_n", "sample", "greedy"])
@pytest.mark.parametrize("critic", ["value", "orm"])
def test_a_lost_critic_is_said_and_the_others_still_score(
    method: str, critic: str, fallback: tuple[str, ...]
) -> None:
    parameters = SearchParameters.model_validate(
        {"method": method, "critics": {"value": 1.0, "orm": 1.0}, "fallback": fallback}
    )
    result = solve(critic_fails(critic), parameters)
    assert result.details == {"critics_lost": {critic: "the test says critic_error"}}
    other = {"value": "orm", "orm": "value"}[critic]
    assert set(result.trajectories[0].scores) == {other}
    assert result.trajectories[0].finish_reason == "stop"
    if method == "mcts" and fallback:
        assert result.stop_reason == "critic_error"
        assert result.fallback is not None
        assert result.fallback.reason == "critic_error"
    elif method == "mcts":
        assert result.simulations > 5, "there is no other way than to go on without it"


@pytest.mark.parametrize("reason", ["critic_error", "numeric", "internal"])
def test_options_are_not_lost_with_a_critic_however_it_fails(reason: FailureReason) -> None:
    world = critic_fails("noise", (Extend, Score), reason)
    critics = {"value": 1.0, "noise": 1.0}
    search, tree = grow(SearchParameters(critics=critics, fallback=()), world=world)
    assert search._evaluation.lost.keys() == {"noise"}
    asked = next(work for work in world.done if isinstance(work, Extend))
    again = next(work for work in world.done if isinstance(work, Extend) and not work.critics)
    assert (asked.draws, again.draws, asked.key) == (4, 4, again.key)
    assert not tree.root.closed or tree.root.solved
    assert all(set(node.scores) == {"value"} for node in tree.walk() if node.depth)
    assert search.result is not None
    assert not isinstance(search.result, SearchFailed)
    assert search.result.simulations > 10


@pytest.mark.parametrize(
    ("critics", "rollouts", "sighted"),
    [
        ({}, 0, False),
        ({}, 2, False),
        ({"value": 1.0}, 0, True),
        ({"orm": 1.0}, 0, False),
        ({"orm": 1.0}, 2, True),
        ({"orm": 0.0}, 2, False),
        ({"value": 0.0, "orm": 1.0}, 0, False),
    ],
)
def test_unfinished_states_are_seen_by_those_critics_that_have_a_say_there(
    critics: dict[str, float], rollouts: int, sighted: bool
) -> None:
    own = evaluation(critics, rollouts={"count": rollouts})
    assert own.sighted == sighted
    for name in critics:
        own.lost[name] = "the test says so"
    assert not own.sighted


def test_a_critic_that_answers_no_number_is_lost() -> None:
    class Broken(World):
        def _score(self, state: object, critic: str) -> float:
            return float("nan") if critic == "noise" else super()._score(state, critic)  # type: ignore[arg-type]

    world = Broken()
    search = build(world, SearchParameters(critics={"value": 1.0, "noise": 1.0}))
    result = drive(search, world)
    assert isinstance(result, SearchResult)
    assert result.details == {"critics_lost": {"noise": "noise answered nan"}}
    assert set(result.trajectories[0].scores) == {"value"}


def test_a_critic_that_fails_once_is_not_lost() -> None:
    failed: list[Work] = []

    def fails(work: Work) -> FailureReason | None:
        if isinstance(work, Extend) and work.critics and not failed:
            failed.append(work)
            return "critic_error"
        return None

    result = solve(World(fails=fails), SearchParameters(critics={"value": 1.0}))
    assert failed
    assert result.details is None


def test_without_critics_a_terminal_is_worth_its_likelihood_and_has_no_score() -> None:
    search, tree = grow(SearchParameters())
    assert isinstance(search.result, SearchResult)
    assert search.result.trajectories[0].score is None
    assert search.result.trajectories[0].scores == {}
    for node in tree.terminals:
        assert tree.low <= node.trajectory_likelihood <= tree.high


def test_where_nothing_can_be_said_a_simulation_goes_on_to_a_terminal() -> None:
    world = World()
    search, tree = grow(
        SearchParameters(critics={"orm": 1.0}), world=world, rollouts_available=False
    )
    assert isinstance(search.result, SearchResult)
    assert search.result.terminals >= 10
    draws = {work.draws for work in world.done if isinstance(work, Extend)}
    assert draws == {1}, "of options drawn together none could be called the best"
    assert all(node.score is None for node in tree.walk() if node.end is None)


def test_an_unfinished_end_is_worth_no_more_than_the_worst_seen() -> None:
    own = evaluation({"value": 1.0})
    tree = new_tree()
    tree.low, tree.high = 0.2, 0.9
    cut = tree.add(tree.root, option("a"), "length", "mcts")
    cut.scores = {"value": 0.95}
    own.note(tree, cut)
    assert cut.score == 0.95
    assert own.value(tree, cut) == 0.2


def test_importance_is_the_largest_step_from_the_node_to_a_child() -> None:
    own = evaluation({"value": 1.0})
    tree = new_tree()
    tree.root.scores = {"value": 0.5}
    own.note(tree, tree.root)
    for text, value in (("a", 0.4), ("b", 0.8), ("c", 0.6)):
        child = tree.add(tree.root, option(text), None, "mcts")
        child.scores = {"value": value}
        own.note(tree, child)
    assert tree.root.importance == pytest.approx(0.3)


@pytest.mark.parametrize("method", ["mcts", "best_first", "beam", "dvts"])
def test_an_early_stop_waits_for_the_scores_of_what_it_returns(method: Method) -> None:
    parameters = SearchParameters(
        method=method,
        budget=Budget(simulations=200),
        critics={"orm": 1.0, "value": 1.0},
        parallel=8,
        stop_when=StopWhen(score=0.9),
    )
    for seed in range(8):
        result = solve(World(critic_noise=0.0), parameters, n=3, seed=seed)
        assert all("orm" in each.scores for each in result.trajectories)


def test_a_leader_by_visits_is_returned_with_its_score() -> None:
    for width in ((1, 1), (2, 3)):
        parameters = SearchParameters(
            budget=Budget(simulations=40),
            critics={"orm": 1.0, "value": 1.0},
            readout="visits",
            width=Width(root=width, inner=width),
        )
        for seed in range(8):
            assert "orm" in solve(World(), parameters, seed=seed).trajectories[0].scores


@pytest.mark.parametrize(
    "method", ["mcts", "best_first", "beam", "dvts", "best_of_n", "self_consistency"]
)
def test_what_is_returned_is_read_by_critics_whom_the_budget_had_no_room_for(
    method: Method,
) -> None:
    for tokens in range(40, 240, 20):
        world = World(critic_noise=0.3, readers=frozenset(("orm",)))
        parameters = SearchParameters(
            method=method,
            budget=Budget(tokens=tokens),
            critics={"orm": 1.0, "value": 1.0},
            fallback=("beam", "sample"),
            width=Width(samples=3),
        )
        result = drive(build(world, parameters, max_tokens=60), world)
        if isinstance(result, SearchResult):
            assert set(result.trajectories[0].scores) == {"orm", "value"}

"""What would break: a step that is taken back, KV that is kept for what was pruned, statistics that
are lost with it, or a budget that is spent on the first step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.work import Announce, Extend, Extended, Option, Outcome, Release, Work
from tests.mcts_core.search.driver import Clock, build, drive, picture, solve
from tests.mcts_core.search.world import World, text

ON = StopWhen(converged=False)
NOISY = {"value": 0.5, "noise": 1.0}
PARAMETERS = st.builds(
    lambda method, critics, budget, readout, parallel, root, inner: SearchParameters(
        method=method,
        commit=True,
        critics=critics,
        budget=budget,
        readout=readout,
        parallel=parallel,
        stop_when=ON,
        width=Width(root=root, inner=inner),
    ),
    method=st.sampled_from(["mcts", "best_first", "beam", "dvts"]),
    critics=st.sampled_from([{}, {"orm": 1.0}, NOISY]),
    budget=st.builds(
        Budget,
        simulations=st.integers(1, 120),
        tokens=st.none() | st.integers(1, 2000),
        nodes=st.none() | st.integers(2, 200),
    ),
    readout=st.sampled_from(["best", "visits", "value"]),
    parallel=st.integers(1, 8),
    root=st.sampled_from([(1, 2), (4, 16)]),
    inner=st.sampled_from([(1, 1), (2, 6)]),
)


def parameters(**fields: Any) -> SearchParameters:
    budget = fields.pop("budget", Budget(simulations=120))
    return SearchParameters(commit=True, critics=NOISY, budget=budget, stop_when=ON, **fields)


@settings(max_examples=60, deadline=None)
@given(parameters=PARAMETERS, seed=st.integers(0, 3), order=st.integers(0, 2**32))
def test_what_was_committed_stays_and_what_was_pruned_is_given_back(
    parameters: SearchParameters, seed: int, order: int
) -> None:
    world = World(numbers=(2, 3, 4, 6), critic_noise=0.3)
    search = build(world, parameters, seed=seed, stream=True)
    assert isinstance(search, TreeSearch)
    assert search._commitment is not None
    chance = random.Random(order)
    pending: list[Work] = []
    said = ""

    def take(works: Sequence[Work]) -> None:
        nonlocal said
        if search.result is not None:
            return
        committed = [work for work in works if isinstance(work, Announce)]
        for work in works:
            if isinstance(work, Release):
                world.release(work)
            elif not isinstance(work, Announce):
                pending.append(work)
        if not committed:
            return
        said += "".join(work.text for work in committed)
        tree, base = search._tree, search._commitment and search._commitment.base
        assert tree is not None
        assert base is not None
        assert said == "".join(node.text for node in base.path())
        nodes = list(tree.walk())
        assert tree.finished or parameters.method in ("beam", "dvts")
        assert all(base in node.path() for node in tree.terminals)
        assert {id(state) for state in world.opened if not state.released} == {
            id(node.state) for node in nodes if node.state is not None
        }
        below = [node for node in nodes if base in node.path()]
        assert {*nodes} == {*below, *base.path()}
        for node in below:
            own = sum(child.visits - (child.visits > 0) for child in node.children)
            assert node.visits >= own
            assert node.open == sum(not child.solved for child in node.children)
            assert node.end is None or not node.children
        assert all(node.closed and node.state is None for node in base.path()[:-1])

    take(search.start())
    while search.result is None:
        work = pending.pop(chance.randrange(len(pending)))
        take(search.deliver(work, world.do(work)))
    result = search.result
    assert isinstance(result, SearchResult)
    assert result.trajectories[0].text.startswith(said)
    if parameters.method in ("mcts", "best_first"):
        assert result.simulations <= (parameters.budget.simulations or 0)
    assert result.trajectories[0].finish_reason == "stop"
    assert set(result.trajectories[0].scores) == set(parameters.critics)
    tree = search._tree
    assert tree is not None
    assert all(node.virtual == node.pending == 0 for node in tree.walk())
    made = [*tree.walk(), *tree.pruned]
    assert sorted(node.id for node in made) == [*range(tree.nodes)], "a node is lost or there twice"
    assert result.terminals == sum(node.end == "stop" for node in made)
    assert all(node.pruned == (node in tree.pruned) for node in made)

    world = World(numbers=(2, 3, 4, 6), critic_noise=0.3)
    again = build(world, parameters, seed=seed, stream=True)
    drive(again, world)
    assert isinstance(again, TreeSearch)
    assert again._tree is not None
    assert picture(again._tree) == picture(tree), "the order of arrival made a difference"


def committing(method: str, **fields: Any) -> tuple[World, TreeSearch, list[int]]:
    """A search to its end, and what was spent when each of its steps was announced."""
    world = World(numbers=(2, 3, 4, 6, 7), critic_noise=0.3)
    search = build(world, parameters(method=method, **fields), stream=True)
    assert isinstance(search, TreeSearch)
    pending, at = list(search.start()), list[int]()
    while search.result is None:
        work = pending.pop(0)
        for new in search.deliver(work, world.do(work)):
            if isinstance(new, Announce):
                at.append(world.spent)
            elif not isinstance(new, Release):
                pending.append(new)
    return world, search, at


@pytest.mark.parametrize("method", ["beam", "dvts"])
def test_a_beam_commits_a_step_when_its_share_is_used(method: str) -> None:
    """The others are pruned then, and nothing is drawn below them any more."""
    free, _, _ = committing(method, budget=Budget(tokens=10_000), width=Width(beam=3, subtrees=3))
    budget = Budget(tokens=free.spent)
    world, search, at = committing(method, budget=budget, width=Width(beam=3, subtrees=3))
    assert len(at) >= 2
    assert at[0] < free.spent / 2, "the first step has one share of four"
    assert world.spent <= free.spent
    tree = search._tree
    assert tree is not None
    assert any(node.depth == 1 and not node.children for node in tree.pruned)
    assert len(tree.root.children) == 1
    assert isinstance(search.result, SearchResult)
    assert search.result.trajectories[0].finish_reason == "stop"


def test_a_beam_commits_what_all_its_states_have_in_common() -> None:
    """A beam of one has everything in common: each step is committed before the next is drawn."""
    _, search, at = committing("beam", budget=Budget(tokens=100_000), width=Width(beam=1))
    assert isinstance(search.result, SearchResult)
    steps = search.result.trajectories[0].text.count("\n")
    assert len(at) == steps, "all but the last, which ends the search"
    assert at == sorted(set(at))


def test_committing_what_is_common_changes_no_beam() -> None:
    """With a budget that is not used up nothing is pruned that the beam would have gone on with."""
    for seed in range(5):
        results = []
        for commit in (False, True):
            world = World(numbers=(2, 3, 4, 6, 7), critic_noise=0.3)
            asked = parameters(method="beam", budget=Budget(tokens=100_000), width=Width(beam=3))
            asked = asked.model_copy(update={"commit": commit})
            result = solve(world, asked, seed=seed)
            results.append((result.trajectories, result.simulations, world.spent))
        assert results[0] == results[1]


def test_best_first_grows_nothing_that_a_commitment_has_pruned() -> None:
    world, search, at = committing("best_first", budget=Budget(tokens=900), parallel=1)
    assert at
    tree = search._tree
    assert tree is not None
    assert tree.pruned
    assert not any(node.pruned for *_, node in search._frontier)  # type: ignore[attr-defined]
    assert not any(state.released for state in world.opened if state is tree.root.state)


def test_every_step_gets_its_share_of_the_simulations() -> None:
    world = World(numbers=(2, 3, 4, 6, 7), critic_noise=0.3)
    search = build(world, parameters(budget=Budget(simulations=400)), stream=True)
    assert isinstance(search, TreeSearch)
    pending = list(search.start())
    at: list[int] = []
    while search.result is None:
        work = pending.pop(0)
        for new in search.deliver(work, world.do(work)):
            if isinstance(new, Announce):
                at.append(search.progress.simulations)
            elif not isinstance(new, Release):
                pending.append(new)
    assert at[:2] == [80, 160], "five steps, and all trajectories have as many"


def test_the_clock_decides_nothing_without_a_deadline() -> None:
    pictures = []
    for tick in (0.0, 5.0):
        world = World(critic_noise=0.3)
        clock = Clock(tick)
        search = build(world, parameters(), clock=clock, stream=True)
        drive(search, world, clock=clock)
        assert isinstance(search, TreeSearch)
        assert search._tree is not None
        pictures.append((picture(search._tree), world.announced))
    assert pictures[0] == pictures[1]


def test_time_is_divided_when_it_is_what_runs_out() -> None:
    world, clock = World(numbers=(1, 2, 3, 4, 5), critic_noise=0.3), Clock(0.01)
    budget = Budget(simulations=None, deadline_ms=5000)
    search = build(world, parameters(budget=budget), clock=clock, stream=True)
    result = drive(search, world, clock=clock, deadline=clock() + 5.0)
    assert isinstance(result, SearchResult)
    assert result.stop_reason in ("deadline", "exhausted")
    assert len(world.announced) >= 2
    assert result.trajectories[0].finish_reason == "stop"


@pytest.mark.parametrize("after", range(5, 200, 13))
def test_a_deadline_at_any_moment_keeps_to_what_was_said(after: int) -> None:
    world = World(critic_noise=0.3)
    result = drive(build(world, parameters(), stream=True), world, expire_after=after)
    if isinstance(result, SearchResult):
        assert result.trajectories[0].text.startswith("".join(world.announced))
    if world.announced:
        assert isinstance(result, SearchResult)
        assert result.trajectories[0].finish_reason == "stop"


def test_a_full_pool_keeps_to_what_was_said() -> None:
    world = World(critic_noise=0.3)
    world.fails = lambda work: "kv_exhausted" if len(world.announced) > 0 else None
    result = drive(build(world, parameters(), stream=True), world)
    assert isinstance(result, SearchResult)
    assert world.announced
    assert result.trajectories[0].text.startswith("".join(world.announced))
    assert result.stop_reason == "kv_exhausted"


def test_without_a_stream_the_search_is_the_same() -> None:
    streamed = solve(World(critic_noise=0.3), parameters(), stream=True)
    assert solve(World(critic_noise=0.3), parameters()) == streamed


def test_several_trajectories_and_votes_commit_nothing() -> None:
    for fields, options in (
        ({}, {"n": 2}),
        ({"readout": "vote"}, {}),
        ({"method": "best_of_n"}, {}),
    ):
        world = World(critic_noise=0.3)
        drive(build(world, parameters(**fields), stream=True, **options), world)  # type: ignore[arg-type]
        assert not world.announced


class Stopping(World):
    """Its options end before a stop string of the completion, wherever that began."""

    def do(self, work: Work) -> Outcome:
        outcome = super().do(work)
        if not isinstance(work, Extend) or not isinstance(outcome, Extended):
            return outcome
        before = text(work.state.tokens[len(self.prompt) :])
        options: dict[tuple[int, ...], Option] = {}
        for option in outcome.options:
            stopped = self._stopped(option, before, work)
            same = options.get(stopped.tokens)
            draws = stopped.draws if same is None else (*same.draws, *stopped.draws)
            options[stopped.tokens] = replace(stopped, draws=draws)
        return replace(outcome, options=tuple(options.values()))

    @staticmethod
    def _stopped(option: Option, before: str, work: Extend) -> Option:
        for count in range(1, len(option.tokens) + 1):
            whole = before + text(option.tokens[:count])
            begins = [whole.find(s, max(0, len(before) - len(s) + 1)) for s in work.stop]
            if found := [at for at in begins if at >= 0]:
                at = min(found)
                option.state.tokens = (*work.state.tokens, *option.tokens[:count])  # type: ignore[misc]
                return replace(
                    option,
                    tokens=option.tokens[:count],
                    logprobs=option.logprobs[:count],
                    draw_logprobs=option.draw_logprobs[:count],
                    text=whole[len(before) : at],
                    finish="stop",
                    cut=max(0, len(before) - at),
                )
        return option


@pytest.mark.parametrize(
    ("method", "width"),
    [("beam", Width(beam=1)), ("beam", Width(beam=2)), ("dvts", Width(subtrees=1)), ("mcts", None)],
)
def test_what_may_begin_a_stop_string_is_not_said_before_it_is_sure(
    method: Method, width: Width | None
) -> None:
    said = 0
    for seed in range(4):
        world = Stopping(numbers=(2, 3, 4, 6), critic_noise=0.3)
        search = build(
            world,
            parameters(method=method, width=width or Width()),
            seed=seed,
            stream=True,
            stop=("\nanswer",),
        )
        result = drive(search, world)
        assert isinstance(result, SearchResult)
        announced = "".join(world.announced)
        assert result.trajectories[0].text.startswith(announced)
        said += len(announced)
    assert said

"""What the deadline finds: what has arrived is not lost, and what is returned is whole if it can
be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods import METHODS
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Budget, Method, SearchParameters, Width
from mcts_core.search.search import Search, SearchFailed, SearchResult
from mcts_core.search.tree import Tree
from mcts_core.search.work import Announce, Extend, Extended, Finish, Outcome, Release, Work
from tests.mcts_core.search.driver import Clock, build, drive, picture
from tests.mcts_core.search.world import World, text

VALUE = {"value": 1.0, "orm": 1.0}


def part(work: Extend, world: World, finish: Finish = "length") -> Extended:
    """What was drawn of an option when the deadline passed: half of it, or all."""
    outcome = world.do(work)
    assert isinstance(outcome, Extended)
    option = outcome.options[0]
    count = max(1, len(option.tokens) // 2) if finish == "length" else len(option.tokens)
    return Extended(
        (
            replace(
                option,
                tokens=option.tokens[:count],
                logprobs=option.logprobs[:count],
                draw_logprobs=option.draw_logprobs[:count],
                text=text(option.tokens[:count]),
                finish=finish,
                scores={},
            ),
        )
    )


def begun(world: World, method: Method, **options: object) -> tuple[Search, list[Extend]]:
    """A search of four samples, and their work."""
    parameters = SearchParameters(
        method=method, budget=Budget(deadline_ms=1e6), width=Width(samples=4)
    )
    search = build(world, parameters, **options)  # type: ignore[arg-type]
    (opening,) = search.start()
    works = search.deliver(opening, world.do(opening))
    return search, [work for work in works if isinstance(work, Extend)]


def ends(search: Search) -> list[str]:
    result = search.result
    assert isinstance(result, SearchResult), result
    return [trajectory.finish_reason for trajectory in result.trajectories]


def deliver(search: Search, world: World, works: Sequence[Work]) -> None:
    for work in works:
        assert not search.deliver(work, world.do(work)), "the oldest is still awaited"


@pytest.mark.parametrize("method", ["best_of_n", "self_consistency"])
def test_samples_that_arrived_behind_an_unfinished_one_are_returned(method: Method) -> None:
    world = World()
    search, (first, *others) = begun(world, method, n=3)
    deliver(search, world, others)
    search.expire([(first, part(first, world))])
    assert ends(search)[0] == "stop"
    assert ends(search) == ["stop"] * len(ends(search))


@pytest.mark.parametrize("stream", [False, True])
def test_every_choice_of_plain_samples_is_returned_as_far_as_it_came(stream: bool) -> None:
    world = World()
    search, (first, *others) = begun(world, "sample", n=4, stream=stream)
    deliver(search, world, others)
    search.expire([(first, part(first, world))])
    assert ends(search) == ["length", "stop", "stop", "stop"]


def test_an_option_that_came_to_its_end_but_waited_for_others_is_whole() -> None:
    world = World()
    search, (first, *_) = begun(world, "best_of_n")
    search.expire([(first, part(first, world, "eos"))])
    assert ends(search) == ["stop"]


@pytest.mark.parametrize("method", ["best_of_n", "self_consistency"])
@pytest.mark.parametrize("tokens", [34, 40, 46])
def test_what_the_ladder_had_begun_goes_on_from_where_it_began(method: Method, tokens: int) -> None:
    """The rest of a torn sample is none by itself."""
    world = World()
    parameters = SearchParameters(
        method=method, budget=Budget(tokens=tokens, deadline_ms=1e6), width=Width(samples=1)
    )
    search = build(world, parameters, max_tokens=60)
    pending = list(search.start())
    while True:
        work = pending.pop(0)
        if isinstance(work, Release):
            continue
        if isinstance(work, Extend) and len(work.state.tokens) > len(world.prompt):
            break
        pending += search.deliver(work, world.do(work))
    before = text(work.state.tokens[len(world.prompt) :])
    search.expire([(work, part(work, world))])
    result = search.result
    assert isinstance(result, SearchResult)
    assert before
    assert result.trajectories[0].text.startswith(before)


def test_a_tree_keeps_the_nodes_that_arrived() -> None:
    world = World()
    parameters = SearchParameters(
        budget=Budget(simulations=64, deadline_ms=1e6), critics={"value": 1.0}
    )
    search = build(world, parameters)
    pending = list(search.start())
    held: Work | None = None
    while work := next((each for each in pending if each is not held), None):
        drawing = [each for each in pending if isinstance(each, Extend)]
        if held is None and len(drawing) >= 4:
            held = drawing[0]
            continue
        pending.remove(work)
        if not isinstance(work, Release):
            pending += search.deliver(work, world.do(work))
    known = search.progress.simulations
    search.expire([])
    assert held is not None
    assert isinstance(search.result, SearchResult)
    assert search.result.simulations > known


def in_steps(
    method: str, steps: float, **fields: object
) -> tuple[SearchResult | SearchFailed, Tree | None]:
    """A search with time for so many steps of an engine that draws one token of everything under
    way in each; a step takes a tenth longer for every row beside the first."""
    world = World(numbers=(2, 3, 4, 6, 7), critic_noise=0.5)
    clock = Clock()
    parameters = SearchParameters.model_validate(
        {
            "method": method,
            "critics": VALUE,
            "budget": {"simulations": 10_000, "deadline_ms": steps},
            "stop_when": {"converged": False},
            "width": {"root": (4, 8), "inner": (4, 8), "samples": 32},
            **fields,
        }
    )
    search = build(world, parameters, clock=clock)
    assert isinstance(search, TreeSearch)
    ends = clock() + steps / 1000
    under_way: list[tuple[Work, Outcome, int]] = []

    def begin(works: Sequence[Work]) -> None:
        for work in works:
            if not isinstance(work, Release | Announce):
                outcome = world.do(work)
                drawn = outcome.options if isinstance(outcome, Extended) else ()
                under_way.append((work, outcome, max([1, *(len(each.tokens) for each in drawn)])))

    begin(search.start())
    while search.result is None and clock() < ends:
        rows = sum(len(o.options) if isinstance(o, Extended) else 1 for _, o, _ in under_way)
        clock.seconds += 0.001 * (1 + 0.1 * (rows - 1))
        under_way = [(work, outcome, left - 1) for work, outcome, left in under_way]
        for work, outcome in [(work, outcome) for work, outcome, left in under_way if left == 0]:
            begin(search.deliver(work, outcome))
        under_way = [each for each in under_way if each[2]]
    if search.result is None:
        search.expire(())
    assert search.result is not None
    return search.result, search._tree


PATH = 45
"""Steps that a trajectory of these five numbers takes, with the prompt and the last scores."""


@pytest.mark.parametrize("paths", [1.2, 1.5, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("method", ["mcts", "best_first", "beam", "dvts", "best_of_n"])
def test_time_for_one_path_gives_a_complete_and_scored_trajectory(
    method: str, paths: float
) -> None:
    result, _ = in_steps(method, paths * PATH)
    assert isinstance(result, SearchResult)
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == set(VALUE)
    assert (result.method, result.fallback) == (method, None)


@pytest.mark.parametrize("method", ["mcts", "best_first"])
def test_what_is_left_of_the_time_after_the_first_trajectory_is_used(method: str) -> None:
    result, tree = in_steps(method, 3 * PATH)
    assert isinstance(result, SearchResult)
    assert result.stop_reason == "deadline"
    assert tree is not None
    assert tree.nodes > tree.terminals[0].id + 10


@pytest.mark.parametrize("method", ["mcts", "best_first", "beam", "dvts", "best_of_n"])
def test_a_search_with_time_enough_grows_as_if_it_had_no_deadline(method: str) -> None:
    _, free = in_steps(method, 1e9, budget={"simulations": 40})
    _, timed = in_steps(method, 1e9, budget={"simulations": 40, "deadline_ms": 1e6})
    assert free is not None
    assert timed is not None
    assert picture(timed) == picture(free)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(list(METHODS)),
    critics=st.sampled_from([{}, {"orm": 1.0}, VALUE]),
    expire_after=st.integers(0, 80),
    order=st.integers(0, 99),
)
def test_expiring_at_any_moment_gives_a_result_or_says_that_there_is_none(
    method: str, critics: dict[str, float], expire_after: int, order: int
) -> None:
    world = World(critic_noise=0.5)
    parameters = SearchParameters.model_validate({"method": method, "critics": critics})
    search = build(world, parameters)
    result = drive(search, world, shuffle=order, expire_after=expire_after)
    if isinstance(result, SearchFailed):
        assert result.reason == "deadline"
    else:
        assert result.trajectories
        if expire_after == 0:
            assert result.stop_reason == "deadline"
    assert search.result is result


def test_nothing_happens_after_the_end() -> None:
    world = World()
    search = build(world, SearchParameters())
    (opening,) = search.start()
    search.expire(())
    failed = search.result
    assert isinstance(failed, SearchFailed)
    assert search.deliver(opening, world.do(opening)) == ()
    search.expire(())
    assert search.result is failed

"""What the deadline finds: what has arrived is not lost, and what is returned is whole if it can
be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mcts_core.search.parameters import Budget, Method, SearchParameters, Width
from mcts_core.search.search import Search, SearchResult
from mcts_core.search.work import Extend, Extended, Finish, Release, Work
from tests.mcts_core.search.driver import build
from tests.mcts_core.search.world import World, text


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

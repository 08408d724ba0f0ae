"""Searches over a toy world: built, driven to their end, looked at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from mcts_core.search.budget import Meter
from mcts_core.search.methods import create
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.outlook import Outlook
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import Search, SearchFailed, SearchResult
from mcts_core.search.task import Task
from mcts_core.search.tree import Tree
from mcts_core.search.work import (
    Announce,
    Release,
    Sampling,
    Work,
)
from tests.mcts_core.search.world import World


class Clock:
    """Advances by `tick` seconds with every outcome that is delivered."""

    def __init__(self, tick: float = 0.0) -> None:
        self.tick = tick
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def task(
    parameters: SearchParameters,
    *,
    max_tokens: int = 100,
    seed: int = 0,
    outcome_critics: tuple[str, ...] = (),
    process_critics: tuple[str, ...] = (),
    rollouts_available: bool = False,
) -> Task:
    """Of a prompt of one token, for one trajectory."""
    return Task(
        prompt=(1,),
        parameters=parameters,
        sampling=Sampling(seed=seed),
        max_tokens=max_tokens,
        stop=(),
        n=1,
        stream=False,
        outcome_critics=frozenset(outcome_critics),
        process_critics=frozenset(process_critics),
        rollouts_available=rollouts_available,
    )


def meters(
    parameters: SearchParameters,
    max_tokens: int = 100,
    longest: int | None = None,
    clock: Clock | None = None,
) -> tuple[Meter, Outlook]:
    """Such as have counted nothing, and an outlook on nothing."""
    clock = clock or Clock()
    meter = Meter(parameters, clock, clock(), longest or parameters.step.limit, max_tokens)
    return meter, Outlook(parameters, meter, max_tokens)


def build(
    world: World,
    parameters: SearchParameters,
    *,
    clock: Clock | None = None,
    max_tokens: int = 200,
    stop: tuple[str, ...] = (),
    n: int = 1,
    seed: int = 0,
    stream: bool = False,
    temperature: float = 1.0,
    rollouts_available: bool = True,
    actions: tuple[tuple[int, ...], ...] = (),
) -> Search:
    clock = clock or Clock()
    return create(
        prompt=world.prompt,
        parameters=parameters,
        sampling=Sampling(temperature=temperature, seed=seed),
        max_tokens=max_tokens,
        stop=stop,
        n=n,
        stream=stream,
        clock=clock,
        started=clock(),
        outcome_critics=frozenset(("orm",)),
        process_critics=frozenset(("prm",)),
        reading_critics=world.readers,
        rollouts_available=rollouts_available,
        actions=actions,
    )


def drive(
    search: Search,
    world: World,
    *,
    shuffle: int | None = None,
    expire_after: int | None = None,
    clock: Clock | None = None,
    deadline: float | None = None,
) -> SearchResult | SearchFailed:
    """Runs a search to its end. Outcomes are delivered one by one: in the order of the work, or
    in an order drawn from the seed `shuffle`."""
    chance = random.Random(shuffle)
    pending: list[Work] = []

    def take(works: Sequence[Work]) -> None:
        if search.result is not None:
            return
        for work in works:
            if isinstance(work, Release):
                world.release(work)
            elif isinstance(work, Announce):
                world.announced.append(work.text)
            else:
                pending.append(work)

    take(search.start())
    delivered = 0
    while search.result is None:
        if expire_after is not None and delivered >= expire_after:
            search.expire(())
            break
        if clock is not None and deadline is not None and clock() >= deadline:
            search.expire(())
            break
        assert pending, "the search waits for nothing and has no result"
        index = 0 if shuffle is None else chance.randrange(len(pending))
        work = pending.pop(index)
        outcome = world.do(work)
        delivered += 1
        if clock is not None:
            clock.seconds += clock.tick
        take(search.deliver(work, outcome))
    assert search.result is not None
    return search.result


def solve(
    world: World, parameters: SearchParameters, *, shuffle: int | None = None, **options: Any
) -> SearchResult:
    """Runs a search that must not fail; `options` are those of `build`."""
    result = drive(build(world, parameters, **options), world, shuffle=shuffle)
    assert isinstance(result, SearchResult), result
    return result


def grow(
    parameters: SearchParameters,
    *,
    world: World | None = None,
    shuffle: int | None = None,
    expire_after: int | None = None,
    **options: Any,
) -> tuple[TreeSearch, Tree]:
    """Runs a search to its end and shows its insides."""
    world = world or World()
    search = build(world, parameters, **options)
    drive(search, world, shuffle=shuffle, expire_after=expire_after)
    assert isinstance(search, TreeSearch)
    tree = search._tree
    assert tree is not None
    return search, tree


def picture(tree: Tree) -> list[tuple[object, ...]]:
    """Everything that a search has decided, node by node."""
    return [
        (node.id, node.depth, node.text, node.end, node.visits, node.total, node.scores, node.draws)
        for node in tree.walk()
    ]

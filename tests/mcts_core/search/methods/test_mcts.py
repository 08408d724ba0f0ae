from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods.mcts import MCTS
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.tree import Tree
from mcts_core.search.work import Boundary, Extend, Extended, Finish
from tests.mcts_core.search.driver import build, grow, solve
from tests.mcts_core.search.world import World, WorldState, reachable

EXACT = {"value": 1.0, "orm": 1.0}
ON = StopWhen(converged=False)


def test_an_exact_critic_leads_to_the_solution_within_few_simulations() -> None:
    rng = random.Random(7)
    solved = tried = 0
    while tried < 20:
        numbers = tuple(sorted(rng.randint(1, 13) for _ in range(3)))
        target = rng.randint(10, 99)
        if not reachable(numbers, target):
            continue
        tried += 1
        parameters = SearchParameters(critics=EXACT, budget=Budget(simulations=48))
        result = solve(World(numbers=numbers, target=target), parameters, seed=tried)
        solved += result.trajectories[0].text.endswith(f"answer {target}")
        assert result.simulations <= 48
    assert solved >= 18


def test_search_finds_what_greedy_decoding_misses() -> None:
    world = World(numbers=(3, 4, 6), target=21)
    greedy = solve(world, SearchParameters(method="greedy", critics=EXACT))
    searched = solve(world, SearchParameters(critics=EXACT))
    assert greedy.trajectories[0].score == 0.0
    assert searched.trajectories[0].score == 1.0


def test_a_perfect_terminal_ends_the_search_as_converged() -> None:
    world = World(numbers=(2, 3, 4), target=24)
    result = solve(world, SearchParameters(critics=EXACT, budget=Budget(simulations=1000)))
    assert result.stop_reason == "converged"
    assert result.simulations < 100
    patient = SearchParameters(
        critics=EXACT, budget=Budget(simulations=60), stop_when=StopWhen(converged=False)
    )
    assert solve(world, patient).stop_reason != "converged"


def test_a_critic_without_an_upper_bound_never_converges() -> None:
    class Unbounded(World):
        def _score(self, state: object, critic: str) -> float:
            return 20.0 * super()._score(state, critic) - 3.0  # type: ignore[arg-type]

    parameters = SearchParameters(critics=EXACT, budget=Budget(simulations=60))
    assert solve(Unbounded(numbers=(2, 3, 4, 5)), parameters).stop_reason == "simulations"


def test_a_score_that_is_good_enough_ends_the_search() -> None:
    parameters = SearchParameters(
        critics={"noise": 1.0}, budget=Budget(simulations=500), stop_when=StopWhen(score=0.6)
    )
    search, tree = grow(parameters)
    assert isinstance(search.result, SearchResult)
    assert search.result.stop_reason == "score"
    assert (search.result.trajectories[0].score or 0.0) >= 0.6
    assert sum((node.score or 0.0) >= 0.6 for node in tree.terminals) == 1
    assert all(node.virtual == 0 for node in tree.walk())


def test_a_good_score_is_not_enough_while_trajectories_are_missing() -> None:
    parameters = SearchParameters(
        critics={"noise": 1.0}, budget=Budget(simulations=500), stop_when=StopWhen(score=0.1)
    )
    result = solve(World(), parameters, n=3)
    assert result.stop_reason == "score"
    assert len({trajectory.text for trajectory in result.trajectories}) == 3


def test_what_was_asked_for_is_included() -> None:
    parameters = SearchParameters(
        critics={"noise": 1.0}, budget=Budget(simulations=150), include=("candidates", "root")
    )
    search, tree = grow(parameters)
    result = search.result
    assert isinstance(result, SearchResult)
    assert len(result.candidates) == result.terminals == len(tree.terminals)
    scores = [candidate.score or 0.0 for candidate in result.candidates]
    assert scores == sorted(scores, reverse=True)
    assert result.candidates[0] == result.trajectories[0]
    assert [option.text for option in result.root] == [node.text for node in tree.root.children]
    assert abs(sum(option.prior for option in result.root) - 1.0) < 1e-9
    together = tree.root.visits - 1 - sum(option.visits - 1 for option in result.root)
    assert 1 <= together < len(result.root), "some were drawn together: one visit of the root"
    plain = solve(World(), SearchParameters(critics={"noise": 1.0}))
    assert (plain.candidates, plain.root) == ((), ())


def test_a_trajectory_is_the_path_from_root_to_end() -> None:
    search, tree = grow(SearchParameters(critics=EXACT))
    result = search.result
    assert isinstance(result, SearchResult)
    best = result.trajectories[0]
    assert len(best.tokens) == len(best.logprobs)
    assert [logprob.token for logprob in best.logprobs] == list(best.tokens)
    assert bytes(best.tokens[:-1]).decode() == best.text
    assert best.finish_reason == "stop"
    assert (result.nodes, result.depth, result.merged) == (tree.nodes, tree.depth, tree.merged)


def test_a_stop_string_ends_a_trajectory() -> None:
    class Stopping(World):
        def _cut(
            self, tokens: tuple[int, ...], boundary: Boundary, limit: int
        ) -> tuple[tuple[int, ...], Finish | None]:
            count = tokens.index(ord("=")) + 1 if ord("=") in tokens else 0
            return (tokens[:count], "stop") if count else super()._cut(tokens, boundary, limit)

    result = solve(Stopping(), SearchParameters(critics={"noise": 1.0}), stop=("=",))
    assert result.trajectories[0].finish_reason == "stop"
    assert result.depth == 1


def test_simulations_in_flight_at_one_node_keep_to_its_width() -> None:
    for width in (Width(root=(2, 2), inner=(1, 2), alpha=0), Width(root=(2, 2), inner=(2, 2))):
        parameters = SearchParameters(
            critics={"noise": 1.0}, parallel=8, width=width, stop_when=ON, fallback=()
        )
        _, tree = grow(parameters, shuffle=3)
        assert all(len(node.children) <= 2 for node in tree.walk())


def joint(world: World, **parameters: Any) -> tuple[MCTS, Tree]:
    """One simulation, and no ladder."""
    search, tree = grow(
        SearchParameters(budget=Budget(simulations=1), stop_when=ON, fallback=(), **parameters),
        world=world,
    )
    assert isinstance(search, MCTS)
    return search, tree


def test_a_simulation_draws_together_what_its_node_lacks() -> None:
    world = World()
    parameters = SearchParameters(
        critics={"noise": 1.0}, stop_when=ON, parallel=1, width=Width(root=(5, 9), inner=(3, 3))
    )
    grow(parameters, world=world)
    children: dict[int, set[tuple[int, ...]]] = {}
    for work in world.done:
        if not isinstance(work, Extend):
            continue
        low = 3 if work.key[0] else 5
        drawn = World().do(replace(work, state=WorldState(tuple(work.state.tokens)), critics=()))
        assert isinstance(drawn, Extended)
        below = children.setdefault(work.key[0], set())
        assert work.draws == max(1, low - len(below))
        assert work.greedy_first == (not below)
        below.update(option.tokens for option in drawn.options)
    assert len(children) > 5


def test_the_best_value_of_options_drawn_together_is_what_ancestors_get() -> None:
    search, tree = joint(World(), critics={"noise": 1.0}, width=Width(root=(6, 6)))
    root = tree.root
    values = [child.score for child in root.children]
    own = root.score
    assert own is not None
    best = max(value for value in values if value is not None)
    assert len(set(values)) > 2
    assert root.visits == 2
    assert root.total == own + best
    assert [(child.visits, child.total) for child in root.children] == [(1, v) for v in values]
    assert search._meter.simulations == 1
    assert (tree.low, tree.high) == (
        min(own, *(child.total for child in root.children)),
        max(own, best),
    )


def test_draws_that_agree_make_one_child_and_are_drawn_for_again() -> None:
    class Certain(World):
        """Says one thing unless it is told to avoid it."""

        def _lines(self, tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
            lines = super()._lines(tokens)
            return [(line, 1e4 if index == 0 else 1e-1) for index, (line, _) in enumerate(lines)]

    world = Certain()
    search, tree = joint(world, critics={"noise": 1.0}, width=Width(root=(4, 4)))
    assert len(tree.root.children) == 1
    assert (tree.merged, tree.root.draws) == (3, 4)
    only = tree.root.children[0]
    assert only.visits == 1
    assert world.spent == len(world.prompt) + len(only.tokens), "what agrees is computed once"
    assert not tree.root.solved
    assert not tree.root.closed
    assert search._width.wanted(tree.root) == 3


@settings(max_examples=40, deadline=None)
@given(
    root=st.tuples(st.integers(1, 6), st.integers(0, 3)),
    inner=st.tuples(st.integers(1, 4), st.integers(0, 2)),
    parallel=st.integers(1, 8),
    nodes=st.none() | st.integers(2, 80),
    seed=st.integers(0, 3),
    order=st.integers(0, 2**32),
)
def test_options_drawn_together_keep_every_limit(
    root: tuple[int, int],
    inner: tuple[int, int],
    parallel: int,
    nodes: int | None,
    seed: int,
    order: int,
) -> None:
    world = World(critic_noise=0.5)
    width = Width(root=(root[0], sum(root)), inner=(inner[0], sum(inner)))
    parameters = SearchParameters(
        critics=EXACT,
        parallel=parallel,
        width=width,
        budget=Budget(simulations=30, nodes=nodes),
        stop_when=ON,
        fallback=(),
    )
    search, tree = grow(parameters, world=world, seed=seed, shuffle=order)
    assert nodes is None or tree.nodes <= nodes
    for node in tree.walk():
        high = width.inner[1] if node.parent is not None else width.root[1]
        assert len(node.children) <= high
        assert (node.pending, node.virtual, node.blocked) == (0, 0, False)
    for work in world.done:
        if isinstance(work, Extend):
            assert work.draws <= (width.inner[0] if work.key[0] else width.root[0])
    assert search._meter.flying == 0


def test_a_simulation_that_loses_its_only_critic_goes_on_with_one_option_at_a_time() -> None:
    class Broken(World):
        def _score(self, state: WorldState, critic: str) -> float:
            fresh = len(state.tokens) > len(self.prompt)
            return float("nan") if fresh else super()._score(state, critic)

    world = Broken()
    width = Width(root=(4, 4), inner=(1, 1))
    _, tree = grow(
        SearchParameters(critics={"noise": 1.0}, fallback=(), width=width, stop_when=ON),
        world=world,
    )
    draws = [work.draws for work in world.done if isinstance(work, Extend)]
    assert draws[0] == 4
    assert set(draws[1:]) == {1}
    assert all(len(node.children) <= 1 for node in tree.walk() if node.depth)
    assert tree.terminals


def test_a_deadline_before_the_first_option_returns_what_was_drawn_of_it() -> None:
    world = World()
    search = build(world, SearchParameters(critics={"value": 1.0}))
    (opening,) = search.start()
    (work, *_) = search.deliver(opening, world.do(opening))
    assert isinstance(work, Extend)
    whole = world.do(work)
    assert isinstance(whole, Extended)
    option = replace(whole.options[0], text="1 +", finish="length", scores={})
    search.expire([(work, Extended((option,), 3))])
    result = search.result
    assert isinstance(result, SearchResult)
    assert (result.trajectories[0].text, result.trajectories[0].finish_reason) == ("1 +", "length")
    assert result.trajectories[0].score is None

from __future__ import annotations

import random

from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.work import Boundary, Finish
from tests.mcts_core.search.world import World, grow, reachable, solve

EXACT = {"value": 1.0, "orm": 1.0}


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
    assert sum(option.visits for option in result.root) == tree.root.visits - 1
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
    parameters = SearchParameters(
        critics={"noise": 1.0}, parallel=8, width=Width(root=(2, 2), inner=(1, 2), alpha=0)
    )
    _, tree = grow(parameters, shuffle=3)
    assert all(len(node.children) <= 2 for node in tree.walk())

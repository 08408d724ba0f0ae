from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.parameters import Budget, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.tree import Node
from mcts_core.search.work import Extend, FailureReason, Work
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.world import World

EXACT = {"value": 1.0, "orm": 1.0}


def best_first(**fields: object) -> SearchParameters:
    return SearchParameters.model_validate({"method": "best_first", "parallel": 1, **fields})


def f(node: Node) -> float:
    assert node.score is not None
    return node.score + (0.1 * node.logprob / node.length if node.length else 0.0)


def test_an_exact_critic_leads_to_the_solution_with_little_work() -> None:
    result = solve(World(), best_first(critics=EXACT))
    assert result.trajectories[0].text.endswith("answer 24")
    assert (result.method, result.stop_reason, result.fallback) == ("best_first", "converged", None)
    assert result.simulations <= 24


@pytest.mark.parametrize("seed", range(5))
def test_the_best_node_of_the_whole_tree_is_expanded_next(seed: int) -> None:
    world = World()
    _, tree = grow(best_first(critics={"noise": 1.0}), world=world, seed=seed)
    by_id = {node.id: node for node in tree.walk()}
    order = [work.key[0] for work in world.done if isinstance(work, Extend) and work.key[1] == 0]
    for at, identifier in enumerate(order):
        last = min((child.id for child in by_id[identifier].children), default=tree.nodes)
        there = [node for node in by_id.values() if node.id < last and node.end != "length"]
        waiting = [node for node in there if node.id not in order[: at + 1]]
        assert f(by_id[identifier]) >= max(map(f, waiting), default=-9.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_terminal_wins_only_when_it_leads_the_frontier(seed: int) -> None:
    search, tree = grow(best_first(critics={"noise": 1.0}, parallel=4), seed=seed)
    assert isinstance(search.result, SearchResult)
    if search.result.stop_reason == "converged":
        leaves = [node for node in tree.walk() if not node.children and node.end is None]
        assert max(map(f, tree.terminals)) >= max(map(f, leaves))


def test_without_critics_the_likeliest_state_per_token_is_expanded() -> None:
    world = World(numbers=(2, 3, 4), target=24)
    search, tree = grow(best_first(), world=world)
    assert isinstance(search.result, SearchResult)
    assert search.result.stop_reason == "converged"
    best = search.result.trajectories[0]
    leaves = [node for node in tree.walk() if not node.children]
    assert max(node.trajectory_likelihood for node in leaves) == pytest.approx(
        max(node.trajectory_likelihood for node in tree.terminals)
    )
    assert best.score is None


def test_what_no_critic_speaks_of_is_hoped_for() -> None:
    """With an outcome critic alone, a worthless terminal does not end the search."""
    world = World(numbers=(2, 3, 4), target=24)
    result = solve(world, best_first(critics={"orm": 1.0}, budget=Budget(simulations=500)))
    assert result.trajectories[0].score == 1.0
    assert result.terminals > 1


def test_a_node_whose_children_disappoint_is_drawn_from_again_up_to_its_width() -> None:
    world = World()
    _, tree = grow(best_first(critics=EXACT, width=Width(root=(1, 16), inner=(1, 6))), world=world)
    hoped = [node for node in tree.walk() if node.score == 1.0 and node.children]
    assert any(len(node.children) > 1 and not node.children[0].score for node in hoped)
    assert all(len(node.children) <= 6 for node in tree.walk() if node.parent is not None)
    again = [work for work in world.done if isinstance(work, Extend) and work.key[1] > 0]
    assert all(work.siblings for work in again)


def test_several_trajectories_need_as_many_leading_terminals() -> None:
    one = solve(World(), best_first(critics={"noise": 1.0}))
    more = solve(World(), best_first(critics={"noise": 1.0}, budget=Budget(simulations=900)), n=4)
    assert one.stop_reason == more.stop_reason == "converged"
    assert len(more.trajectories) == 4
    assert more.simulations > one.simulations


def test_a_search_that_may_not_converge_uses_its_budget_up() -> None:
    parameters = best_first(
        critics={"noise": 1.0},
        budget=Budget(simulations=70),
        stop_when=StopWhen(converged=False),
        width=Width(inner=(3, 3)),
    )
    result = solve(World(), parameters)
    assert (result.stop_reason, result.simulations) == ("simulations", 70)
    assert result.terminals > 1


def test_a_score_that_is_good_enough_ends_the_search() -> None:
    parameters = best_first(
        critics={"noise": 1.0}, stop_when=StopWhen(score=0.1), budget=Budget(simulations=900)
    )
    result = solve(World(), parameters)
    assert result.stop_reason in ("score", "converged")
    assert (result.trajectories[0].score or 0.0) >= 0.1


def test_an_expansion_is_one_joint_draw_of_the_minimum_width() -> None:
    world = World()
    solve(world, best_first(critics={"noise": 1.0}, width=Width(root=(5, 9), inner=(3, 6))))
    extends = [work for work in world.done if isinstance(work, Extend) and work.key[1] == 0]
    assert [work.draws for work in extends[:2]] == [5, 3]
    assert all(work.draws == 3 for work in extends[1:])


@given(simulations=st.integers(1, 60), parallel=st.integers(1, 8), nodes=st.integers(2, 80))
@settings(max_examples=25, deadline=None)
def test_budgets_are_kept(simulations: int, parallel: int, nodes: int) -> None:
    parameters = best_first(
        critics={"noise": 1.0},
        budget=Budget(simulations=simulations, nodes=nodes),
        parallel=parallel,
        fallback=(),
    )
    search, tree = grow(parameters)
    assert isinstance(search.result, SearchResult)
    assert search.result.simulations <= simulations
    assert tree.nodes <= nodes


@given(parallel=st.integers(1, 8), seed=st.integers(0, 99), order=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_visits_add_up_as_in_a_tree_search(parallel: int, seed: int, order: int) -> None:
    search, tree = grow(
        best_first(critics={"noise": 1.0}, parallel=parallel, budget=Budget(simulations=150)),
        seed=seed,
        shuffle=order,
    )
    assert isinstance(search.result, SearchResult)
    if search.result.fallback is None and search.result.stop_reason != "converged":
        return
    if search.result.fallback is None:
        assert tree.root.visits == 1 + search.result.simulations
    for node in tree.walk():
        if search.result.fallback is None and node.children:
            assert node.visits >= 2 + sum(child.visits - 1 for child in node.children)
        assert tree.low <= node.value <= tree.high


def test_a_small_budget_is_finished_by_the_ladder() -> None:
    result = solve(World(), best_first(critics=EXACT, budget=Budget(tokens=60)))
    assert result.stop_reason == "tokens"
    assert result.fallback is not None
    assert result.trajectories[0].finish_reason == "stop"
    assert result.trajectories[0].scores.keys() == {"value", "orm"}


def test_a_full_pool_leads_down_the_ladder() -> None:
    seen: list[Work] = []

    def fails(work: Work) -> FailureReason | None:
        seen.append(work)
        return "kv_exhausted" if 5 < len(seen) < 9 and isinstance(work, Extend) else None

    result = solve(World(fails=fails), best_first(critics={"noise": 1.0}, parallel=4))
    assert result.stop_reason == "kv_exhausted"
    assert result.fallback is not None
    assert result.trajectories[0].finish_reason == "stop"


def test_the_kv_of_expanded_nodes_is_given_back() -> None:
    world = World()
    parameters = best_first(critics={"noise": 1.0}, width=Width(inner=(2, 2)))
    _, tree = grow(parameters, world=world)
    done = [node for node in tree.walk() if node.children and node.closed]
    assert done
    assert all(node.state is None for node in done)

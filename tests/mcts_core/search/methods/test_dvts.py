from __future__ import annotations

import pytest

from mcts_core.search.parameters import Budget, SearchParameters, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Extend, FailureReason, Work
from tests.mcts_core.search.driver import grow, solve
from tests.mcts_core.search.world import World

EXACT = {"value": 1.0, "orm": 1.0}


def dvts(width: Width = Width(), **fields: object) -> SearchParameters:  # noqa: B008
    return SearchParameters.model_validate({"method": "dvts", "width": width, **fields})


def subtree(node: Node) -> int:
    return node.path()[1].id


def grown(tree: Tree) -> list[Node]:
    return [node for node in tree.walk() if node.children and node.parent is not None]


def test_subtrees_led_by_an_exact_critic_solve_the_puzzle() -> None:
    result = solve(World(), dvts(Width(beam=8, subtrees=4), critics=EXACT))
    assert result.trajectories[0].text.endswith("answer 24")
    assert (result.method, result.stop_reason, result.fallback) == ("dvts", "exhausted", None)


@pytest.mark.parametrize("subtrees", [1, 3, 5])
def test_every_subtree_is_grown_to_its_own_terminal(subtrees: int) -> None:
    _, tree = grow(dvts(Width(beam=3, subtrees=subtrees), critics={"noise": 1.0}))
    inner = grown(tree)
    assert len({subtree(node) for node in inner}) == subtrees
    for depth in (1, 2, 3, 4):
        at = [subtree(node) for node in inner if node.depth == depth]
        assert len(at) == len(set(at)), "one state of each subtree goes on"
    finished = {subtree(node) for node in tree.terminals}
    assert len(finished) == subtrees


def test_the_subtrees_begin_with_the_best_options_of_the_root() -> None:
    _, tree = grow(dvts(Width(beam=6, subtrees=2), critics={"noise": 1.0}))
    scores = sorted((node.score or 0.0 for node in tree.root.children), reverse=True)
    begun = sorted((n.score or 0.0 for n in tree.root.children if n.children), reverse=True)
    assert len(scores) == 6
    assert begun == scores[:2]


def test_in_each_subtree_the_best_candidate_goes_on() -> None:
    _, tree = grow(dvts(Width(beam=4, subtrees=3), critics={"noise": 1.0}))
    for node in grown(tree):
        if node.depth > 1:
            assert node.parent is not None
            assert node.score == max(other.score or 0.0 for other in node.parent.children)


def test_the_best_terminal_of_all_subtrees_is_returned() -> None:
    search, tree = grow(dvts(critics={"noise": 1.0}))
    assert isinstance(search.result, SearchResult)
    best = max(node.score or 0.0 for node in tree.terminals)
    assert search.result.trajectories[0].score == best


def test_a_step_of_a_subtree_is_drawn_together() -> None:
    world = World()
    solve(world, dvts(Width(beam=3, subtrees=2), critics={"noise": 1.0}))
    extends = [work for work in world.done if isinstance(work, Extend) and work.key[1] == 0]
    assert {work.draws for work in extends} == {3}
    assert len(extends) <= 1 + 2 * 4


def test_the_kv_of_what_is_done_with_is_given_back() -> None:
    world = World()
    solve(world, dvts(critics={"noise": 1.0}))
    assert all(state.released for state in world.opened if state.tokens.count(10) < 4)


def test_subtrees_that_the_budget_has_no_room_for_come_after_the_others() -> None:
    parameters = dvts(Width(beam=3, subtrees=4), critics={"noise": 1.0}, budget=Budget(nodes=20))
    search, tree = grow(parameters)
    assert isinstance(search.result, SearchResult)
    assert tree.nodes <= 20
    assert (search.result.method, search.result.fallback) == ("dvts", None)
    assert 1 < len({subtree(node) for node in tree.terminals}) < 4


def test_a_subtree_that_fails_does_not_take_the_others_along() -> None:
    failed: list[Work] = []

    def fails(work: Work) -> FailureReason | None:
        if isinstance(work, Extend) and work.state.tokens.count(10) == 2 and not failed:
            failed.append(work)
        return "kv_exhausted" if work in failed else None

    search, tree = grow(dvts(critics={"noise": 1.0}), world=World(fails=fails))
    assert isinstance(search.result, SearchResult)
    assert failed
    assert search.result.fallback is None
    assert len({subtree(node) for node in tree.terminals}) == 3

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search import readout
from mcts_core.search.backup import backup
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.parameters import Budget, SearchParameters, StopWhen
from mcts_core.search.search import SearchResult
from mcts_core.search.tree import End, Node, Tree
from tests.mcts_core.search.driver import grow, meters, solve, task
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World


def evaluation() -> Evaluation:
    search = SearchParameters(critics={"value": 1.0})
    return Evaluation(task(search), *meters(search), [])


def grown(tree: Tree, parent: Node, text: str, score: float, end: End | None = None) -> Node:
    node = tree.add(parent, option(text), end, "mcts")
    node.scores = {"value": score}
    evaluation().note(tree, node)
    backup(tree, node.path(), score)
    return node


def forest() -> tuple[Tree, dict[str, Node]]:
    """Branch a has the most visits, branch b the highest mean, branch c the best terminal."""
    tree = new_tree()
    nodes: dict[str, Node] = {}
    for text, score in (("a", 0.5), ("b", 0.8), ("c", 0.1)):
        nodes[text] = grown(tree, tree.root, text, score)
    nodes["a1"] = grown(tree, nodes["a"], "1", 0.4, "stop")
    nodes["a2"] = grown(tree, nodes["a"], "2", 0.45, "stop")
    nodes["a3"] = grown(tree, nodes["a"], "3", 0.6)
    nodes["b1"] = grown(tree, nodes["b"], "1", 0.7, "stop")
    nodes["c1"] = grown(tree, nodes["c"], "1", 0.9, "stop")
    return tree, nodes


def test_each_readout_reads_what_it_says() -> None:
    tree, nodes = forest()
    own = evaluation()
    chosen = {
        name: readout.choose(tree, name, 1, own)[0]
        for name in ("best", "visits", "value")
    }  # fmt: skip
    assert chosen == {"best": nodes["c1"], "visits": nodes["a2"], "value": nodes["b1"]}
    assert tree.best is nodes["c1"]


def test_more_trajectories_follow_in_the_readouts_own_order() -> None:
    tree, nodes = forest()
    own = evaluation()
    assert readout.choose(tree, "best", 9, own) == [nodes[n] for n in ("c1", "b1", "a2", "a1")]
    assert readout.choose(tree, "visits", 3, own) == [nodes[n] for n in ("a2", "a1", "b1")]


def test_trajectories_of_the_same_text_count_once() -> None:
    tree, nodes = forest()
    split = grown(tree, tree.root, "c1", 0.3, "stop")
    chosen = readout.choose(tree, "best", 9, evaluation())
    assert split not in chosen
    assert nodes["c1"] in chosen


def test_an_unfinished_end_is_never_preferred_to_a_terminal() -> None:
    tree = new_tree()
    cut = grown(tree, tree.root, "cut", 0.99, "length")
    done = grown(tree, tree.root, "done", 0.01, "stop")
    grown(tree, tree.root, "open", 1.0)
    for name in ("best", "visits", "value"):
        assert readout.choose(tree, name, 3, evaluation()) == [done, cut]


def test_without_any_end_the_best_leaf_is_returned() -> None:
    tree = new_tree()
    grown(tree, tree.root, "a", 0.3)
    best = grown(tree, tree.root, "b", 0.6)
    assert readout.choose(tree, "best", 1, evaluation()) == [best]


def test_an_empty_tree_has_nothing_to_return() -> None:
    assert readout.choose(new_tree(), "best", 1, evaluation()) == []


def test_the_visits_readout_is_settled_once_no_rival_can_catch_up() -> None:
    tree = new_tree()
    leader = grown(tree, tree.root, "a", 0.5, "stop")
    for _ in range(9):
        backup(tree, leader.path(), 0.5)
    grown(tree, tree.root, "b", 0.5)
    assert readout.settled(tree, 8)
    assert not readout.settled(tree, 9)


def test_a_solved_rival_without_a_terminal_cannot_catch_up() -> None:
    tree = new_tree()
    grown(tree, tree.root, "a", 0.5, "stop")
    for _ in range(5):
        rival = grown(tree, tree.root, "b", 0.5)
    rival.solved = True
    for _ in range(50):
        backup(tree, rival.path(), 0.5)
    assert not readout.settled(tree, 0), "four rivals have as many visits as the leader"
    tree.root.children = (tree.root.children[0], rival)
    assert readout.settled(tree, 0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), parallel=st.integers(1, 8))
def test_stopping_when_visits_have_converged_changes_nothing_but_the_cost(
    seed: int, parallel: int
) -> None:
    texts = []
    for converged in (True, False):
        parameters = SearchParameters(
            critics={"value": 1.0, "noise": 1.0},
            budget=Budget(simulations=60),
            readout="visits",
            parallel=parallel,
            stop_when=StopWhen(converged=converged),
        )
        result = solve(World(numbers=(2, 3, 4), target=24), parameters, seed=seed)
        texts.append(result.trajectories[0].text)
    assert texts[0] == texts[1]


def test_what_loses_its_lead_when_it_is_fully_scored_is_still_what_is_returned() -> None:
    for seed in range(5):
        parameters = SearchParameters(
            critics={"value": 1.0, "orm": 1.0}, budget=Budget(simulations=6), fallback=()
        )
        result = solve(World(), parameters, seed=seed, n=2)
        assert len(result.trajectories) == 2
        for trajectory in result.trajectories:
            assert trajectory.scores.keys() == {"value", "orm"}


def test_n_trajectories_are_distinct_and_best_first() -> None:
    search, tree = grow(
        SearchParameters(critics={"noise": 1.0}, budget=Budget(simulations=150)), n=5
    )
    result = search.result
    assert isinstance(result, SearchResult)
    texts = [trajectory.text for trajectory in result.trajectories]
    scores = [trajectory.score or 0.0 for trajectory in result.trajectories]
    assert len(set(texts)) == 5
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == max(node.score or 0.0 for node in tree.terminals)

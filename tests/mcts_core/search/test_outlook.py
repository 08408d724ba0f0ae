from __future__ import annotations

import pytest

from mcts_core.search.parameters import Budget, SearchParameters, Step
from mcts_core.search.work import Extended, Failed, Open, Opened
from tests.mcts_core.search.driver import Clock, meters
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import WorldState

VALUE = {"value": 1.0, "orm": 1.0}
WORK = Open(())


def test_options_cost_what_they_cost_on_average() -> None:
    parameters = SearchParameters(
        budget=Budget(tokens=100, nodes=50), step=Step(max_tokens=9), fallback=()
    )
    meter, outlook = meters(parameters, 100, parameters.step.limit)
    tree = new_tree()
    assert outlook.affordable(tree, 99) == 100 // 9, "as long as options may be"
    meter.commit(WORK, Opened(WorldState(()), {}, spent=20))
    meter.commit(WORK, Extended((option("a"), option("b"), option("c"), option("d")), spent=8))
    assert meter.costs.option == 2.0
    assert outlook.affordable(tree, 99) == (100 - 28) // 2
    meter.launch(30)
    meter.reserve(WORK, 60)
    assert outlook.affordable(tree, 99) == (100 - 28 - 60) // 2
    meter.land(30)
    meter.commit(WORK, Failed("internal", "it has cost something", spent=2))
    assert meter.flying == 0
    assert outlook.affordable(tree, 99) == (100 - 30) // 2
    meter.commit(WORK, Opened(WorldState(()), {}, spent=70))
    assert outlook.affordable(tree, 99) == 1, "whether there may be one is asked before"
    assert meter.reached(tree) == "tokens"


def test_what_is_still_to_be_written_is_told_by_what_was_written() -> None:
    """At first four of the longest options; then as much again; then what has come to its end."""
    parameters = SearchParameters(critics=VALUE, budget=Budget(tokens=500), max_depth=9)
    meter, outlook = meters(parameters, 100, 50)
    tree = new_tree()
    assert outlook.tokens_to_go(tree, tree.root) == 100, "max_tokens: nothing is known yet"
    meter.commit(WORK, Extended((option("abcde"), option("ab")), spent=7))
    node = tree.add(tree.root, option("abcde"), None, "mcts")
    assert outlook.tokens_to_go(tree, tree.root) == 20
    for _ in range(3):
        node = tree.add(node, option("abcde"), None, "mcts")
    assert outlook.tokens_to_go(tree, tree.root) == 40
    assert outlook.tokens_to_go(tree, node) == 20
    assert outlook.steps_left(tree, node) == 5, "options have 3.5 tokens on average"
    tree.add(node, option("abcdef"), "stop", "mcts")
    assert outlook.tokens_to_go(tree, tree.root) == 26
    assert outlook.tokens_to_go(tree, node) == 6
    last = tree.add(node, option("abcde"), None, "mcts")
    assert outlook.tokens_to_go(tree, last) == 5, "an option at least"


def test_no_more_is_expected_than_the_depth_allows() -> None:
    parameters = SearchParameters(critics=VALUE, budget=Budget(tokens=500), max_depth=3)
    meter, outlook = meters(parameters, 100, 50)
    tree = new_tree()
    meter.commit(WORK, Extended((option("abcde"),), spent=5))
    node = tree.add(tree.root, option("abcde"), None, "mcts")
    assert outlook.tokens_to_go(tree, node) == 10


def test_what_finishes_the_best_path_is_kept_back() -> None:
    """Not what finishes the longest: its critics may have given it up, and the best ones may be
    short. Before a limit that the ladder may not break there is half as much again."""
    for tokens, ceiling in ((100, False), (300, True)):
        parameters = SearchParameters(critics=VALUE, budget=Budget(tokens=tokens), parallel=1)
        meter, outlook = meters(parameters, 150, 50)
        tree = new_tree()
        meter.commit(WORK, Extended((option("abcdefghij"),), spent=10))
        long = short = tree.add(tree.root, option("abcdefghij"), None, "mcts")
        long = tree.add(long, option("abcdefghij"), None, "mcts")
        kept = {node: 40 - node.length for node in (long, short)}
        for node in (long, short):
            left = int(kept[node] * 1.5) if ceiling else kept[node]
            for spare, reason in ((1, None), (0, "tokens")):
                meter.spent = tokens - left - spare
                assert outlook.short(tree, lambda tree, node=node: node) == reason
        assert outlook.short(tree, lambda tree: None) == "tokens"
        meter.spent = 0
        assert outlook.short(tree, lambda tree: pytest.fail("tokens are not scarce")) is None


def test_no_more_simulations_are_under_way_than_could_be_finished() -> None:
    meter, outlook = meters(SearchParameters(critics=VALUE, budget=Budget(tokens=400)), 100, 50)
    tree = new_tree()
    assert outlook.abreast(tree, 16) == 1, "nothing is known yet: 50 tokens each, and 100 to finish"
    assert outlook.abreast(tree, 6) == 6
    meter.commit(WORK, Extended((option("abcdefghij"),), spent=10))
    assert outlook.abreast(tree, 16) == 9, "40 tokens each"
    assert outlook.abreast(tree, 4) == 4
    meter.spent = 390
    assert outlook.abreast(tree, 16) == 1
    tree.add(tree.root, option("a"), "stop", "mcts")
    assert outlook.abreast(tree, 16) == 16, "there is a trajectory"


def test_the_pace_that_is_planned_with_is_the_one_seen_last() -> None:
    """A server that slows down is noticed in time: the search stops growing and finishes."""
    clock = Clock()
    parameters = SearchParameters(budget=Budget(deadline_ms=1000), step=Step(max_tokens=9))
    meter, outlook = meters(parameters, 40, 9, clock)
    tree = new_tree()
    assert not outlook.hurried(tree), "nothing is known yet"
    began = meter.now()
    clock.seconds += 0.01
    meter.timed(began, 1)
    assert not outlook.hurried(tree), "40 tokens take 0.4 s"
    began = meter.now()
    clock.seconds += 0.15
    meter.timed(began, 5)
    assert outlook.hurried(tree), "40 tokens take 0.8 s"
    meter.commit(WORK, Extended((option("abcd"),), spent=4))
    assert not outlook.hurried(tree), "four options of four tokens take 0.3 s"
    tree.add(tree.root, option("abcd"), "stop", "mcts")
    clock.seconds += 0.8
    assert not outlook.hurried(tree), "there is a trajectory to return"
    assert outlook.finishing(tree, tree.root) == "deadline", "there is no time for another"

from __future__ import annotations

import pytest

from mcts_core.search import readout
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.methods import METHODS
from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen
from mcts_core.search.tree import Node, Tree
from mcts_core.search.votes import Poll
from tests.mcts_core.search.driver import grow, meters, solve, task
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import World


def evaluation(critics: bool = True) -> Evaluation:
    search = SearchParameters(critics={"value": 1.0} if critics else {})
    return Evaluation(task(search), *meters(search), [])


def ballot(tree: Tree, text: str, score: float | None = None) -> Node:
    node = tree.add(tree.root, option(text), "stop", "mcts")
    if score is not None:
        node.scores = {"value": score}
        evaluation().note(tree, node)
    return node


def test_the_answer_with_the_most_votes_wins_whatever_its_texts_are() -> None:
    tree = new_tree()
    for text in ("a\nAnswer: 1", "b\nAnswer: 0.5", "c\nAnswer: 1/2"):
        ballot(tree, text)
    poll = Poll(evaluation(critics=False))
    assert poll.votes(tree) == [1.0, 2.0]
    assert {poll.rank(tree)[0].text[0]} <= {"b", "c"}


def test_votes_weigh_what_the_critics_say() -> None:
    tree = new_tree()
    weak = [ballot(tree, f"{i}\nAnswer: 1", 0.1 + i / 100) for i in range(3)]
    strong = ballot(tree, "Answer: 2", 0.9)
    ranked = Poll(evaluation()).rank(tree)
    assert ranked == [strong, weak[2], weak[1], weak[0]]
    assert readout.choose(tree, "vote", 2, evaluation()) == [strong, weak[2]]


def test_several_weak_votes_beat_a_single_strong_one() -> None:
    tree = new_tree()
    ballot(tree, "Answer: 2", 0.9)
    first = [ballot(tree, f"{i}\nAnswer: 1", 0.5) for i in range(2)]
    assert Poll(evaluation()).rank(tree)[0] in first


def test_the_best_of_each_answer_comes_before_the_others() -> None:
    tree = new_tree()
    ones = [ballot(tree, f"{i}\nAnswer: 1", 0.9 - i / 10) for i in range(2)]
    two = ballot(tree, "Answer: 2", 0.2)
    assert Poll(evaluation()).rank(tree) == [ones[0], two, ones[1]]


def test_negative_scores_are_votes_too() -> None:
    tree = new_tree()
    for index in range(3):
        ballot(tree, f"{index}\nAnswer: 1", -1.0)
    ballot(tree, "Answer: 2", -3.0)
    poll = Poll(evaluation())
    assert poll.votes(tree) == [6.0, 0.0]
    assert not poll.settled(tree, 1)


def test_what_no_critic_could_score_votes_like_the_others() -> None:
    tree = new_tree()
    ballot(tree, "a\nAnswer: 1")
    poll = Poll(evaluation())
    assert poll.votes(tree) == [1.0]
    ballot(tree, "b\nAnswer: 1", 0.2)
    ballot(tree, "Answer: 2", 0.4)
    assert poll.votes(tree) == pytest.approx([0.5, 0.4])


def test_votes_are_settled_only_when_nothing_left_can_overtake() -> None:
    tree = new_tree()
    for text in ("1", "2", "3"):
        ballot(tree, f"{text}\nAnswer: 1")
    ballot(tree, "Answer: 2")
    poll = Poll(evaluation(critics=False))
    assert poll.settled(tree, 1)
    assert not poll.settled(tree, 2), "a tie would be decided by something else"
    assert not Poll(evaluation()).settled(tree, 1), "the critics may still speak"


@pytest.mark.parametrize(
    "method", [name for name, own in METHODS.items() if "vote" in own.readouts]
)
@pytest.mark.parametrize("critics", [{}, {"value": 1.0, "noise": 1.0}])
def test_every_method_that_chooses_can_vote(method: Method, critics: dict[str, float]) -> None:
    parameters = SearchParameters(
        method=method,
        critics=critics,
        readout="vote",
        budget=Budget(simulations=80),
        stop_when=StopWhen(converged=False),
    )
    search, tree = grow(parameters, world=World(numbers=(2, 3, 4), target=24))
    result = solve(World(numbers=(2, 3, 4), target=24), parameters)
    poll = Poll(search._evaluation)
    votes = poll.votes(tree)
    most = [a.text for a, own in zip(poll.answers, votes, strict=True) if own == max(votes)]
    assert result.readout == "vote"
    assert result.trajectories[0].text.split("\n")[-1] in most


def test_sampling_does_not_vote() -> None:
    parameters = SearchParameters(method="sample", readout="vote")
    assert solve(World(), parameters, n=3).readout == "best"


def test_the_vote_stays_the_readout_after_the_ladder() -> None:
    parameters = SearchParameters(
        critics={"value": 1.0}, readout="vote", budget=Budget(simulations=4)
    )
    result = solve(World(), parameters)
    assert result.fallback is not None
    assert result.readout == "vote"

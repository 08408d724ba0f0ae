"""Votes: terminals that give the same answer speak for each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from mcts_core.search.answers import Comparison, extract
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.tree import Node, Tree


@dataclass(slots=True)
class Answer:
    """One answer and the terminals that give it, in the order in which they were found."""

    text: str
    terminals: list[Node] = field(default_factory=list)


class Poll:
    """Counts the votes for each answer of a tree.

    A terminal's vote weighs its mixed score; one that no critic could score, the mean of those that
    were scored; without critics, 1. Where scores are negative (critics without a lower bound), all
    are counted from the lowest.
    """

    __slots__ = ("_comparison", "_counted", "_evaluation", "answers")

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._comparison = Comparison()
        self._counted = 0
        self.answers: list[Answer] = []
        """In the order in which they were first given."""

    def rank(self, tree: Tree) -> list[Node]:
        """All terminals: the best one of each answer, by votes; then the others, likewise.

        Equal votes are decided by the number of terminals, then by the best of them.
        """
        rank = self._evaluation.rank
        votes = self.votes(tree)
        counted = [
            (own, len(answer.terminals), sorted(answer.terminals, key=rank, reverse=True))
            for own, answer in zip(votes, self.answers, strict=True)
        ]
        counted.sort(key=lambda each: (each[0], each[1], rank(each[2][0])), reverse=True)
        first = [terminals[0] for _, _, terminals in counted]
        return first + [node for _, _, terminals in counted for node in terminals[1:]]

    def votes(self, tree: Tree) -> list[float]:
        """The weight of each of `answers`."""
        self._count(tree)
        scores = [node.score for node in tree.terminals if node.score is not None]
        lowest = min(0.0, *scores) if scores else 0.0
        unscored = sum(scores) / len(scores) if scores else 1.0
        return [
            sum(
                (unscored if node.score is None else node.score) - lowest
                for node in answer.terminals
            )
            for answer in self.answers
        ]

    def settled(self, tree: Tree, left: int) -> bool:
        """Whether `left` more votes cannot give the lead to another answer.

        A vote weighs 1 at most as long as all scores seen are probabilities; critics beyond that
        range never settle anything.
        """
        scores = [node.score for node in tree.terminals if node.score is not None]
        if scores and not (
            len(scores) == len(tree.terminals) and 0 <= min(scores) <= max(scores) <= 1
        ):
            return False
        if not scores and not self._evaluation.blind:
            return False
        votes = sorted(self.votes(tree), reverse=True)
        return bool(votes) and votes[0] - sum(votes[1:2]) > left

    def _count(self, tree: Tree) -> None:
        for node in tree.terminals[self._counted :]:
            text = extract(node.completion)
            for answer in self.answers:
                if self._comparison.same(answer.text, text):
                    answer.terminals.append(node)
                    break
            else:
                self.answers.append(Answer(text, [node]))
        self._counted = len(tree.terminals)

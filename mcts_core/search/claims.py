"""Claims: options that choose nothing, and how sure the policy is of them."""

from __future__ import annotations

from math import exp

from mcts_core.search import parameters
from mcts_core.search.tree import Node


class Claims:
    """What a calculation comes to is no choice. A policy may know many ways to go on, and give none
    of them much of its probability; of what must be so it is unsure only where it does not know.

    A critic that knows no more than the policy believes what the policy writes. But the policy
    tells its guesses from what it knows by how probable it finds them. (DeepConf, arXiv 2508.15260,
    goes by the least confident part of a trace.)
    """

    __slots__ = ("_after", "_least")

    def __init__(self, claims: parameters.Claims | None) -> None:
        self._after = claims.after if claims is not None else ()
        self._least = claims.least if claims is not None else 1.0

    def certainty(self, node: Node, *, whole: bool = False) -> float:
        """Of the most doubtful claim on the way to `node`, in (0, 1]; its parent's is known. What a
        `whole` rest of a trajectory claims is not told from what it chooses."""
        parent = node.parent
        if parent is None or not self._after:
            return 1.0
        if whole or not parent.text.endswith(self._after):
            return parent.certainty
        return min(parent.certainty, exp(node.logprob - parent.logprob) / self._least)

    def settled(self, node: Node) -> bool:
        """Whether a claim below `node` is believed: what else could be drawn there is an error."""
        if not self._after or not node.text.endswith(self._after):
            return False
        drawn = sum([exp(child.logprob - node.logprob) for child in node.children])
        return drawn >= self._least

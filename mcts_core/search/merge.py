"""State merge: when a drawn option is one that is there already."""

from __future__ import annotations

from math import inf
from operator import mul

from rapidfuzz.distance import Levenshtein

from mcts_core.search.parameters import Merge
from mcts_core.search.tree import Node
from mcts_core.search.work import Option


class Likeness:
    """Compares an option with its siblings (AlphaLLM, arXiv 2404.12253, state merge).

    By `edit`, the distance is Levenshtein's over characters, divided by the longer text's length;
    by `embedding` it is 1 - cosine similarity of the options' embeddings (`Option.embedding`); by
    `exact` it is 0 or 1; by `none` no option is ever like another. Equal texts are at distance 0.
    Texts of options that end inside a character say nothing: their tokens are compared.
    """

    __slots__ = ("_by", "_threshold", "embeds")

    def __init__(self, parameters: Merge) -> None:
        self._by = parameters.by
        self._threshold = 0.0 if parameters.by == "exact" else parameters.threshold
        self.embeds = parameters.by == "embedding" and self._threshold > 0
        """Whether options are to be drawn with their embeddings."""

    def nearest(self, node: Node, option: Option) -> tuple[float, Node | None]:
        """Distance in [0, 1] to the most similar child of `node`, and that child if it is near
        enough to merge with. Children beyond the threshold all count as at distance 1."""
        if self._by == "none":
            return 1.0, None
        nearest: Node | None = None
        best = 1.0
        for child in node.children:
            if option.partial or child.partial:
                if child.tokens == option.tokens:
                    return 0.0, child
                if self._by == "edit":
                    continue
            elif child.text == option.text:
                return 0.0, child
            if self._threshold:
                distance = self._distance(child, option)
                if distance <= self._threshold and (nearest is None or distance < best):
                    nearest, best = child, distance
        return best, nearest

    def _distance(self, child: Node, option: Option) -> float:
        """Beyond the threshold it may be any number above it."""
        if self._by == "edit":
            return Levenshtein.normalized_distance(
                child.text, option.text, score_cutoff=self._threshold
            )
        if child.embedding is None or option.embedding is None:
            return inf  # one of them was drawn by a rung that does not merge
        similarity: float = sum(map(mul, child.embedding, option.embedding))
        return min(1.0, max(0.0, 1.0 - similarity))

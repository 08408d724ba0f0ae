"""State merge: when a drawn option is one that is there already."""

from __future__ import annotations

from rapidfuzz.distance import Levenshtein

from mcts_core.search.parameters import Merge
from mcts_core.search.tree import Node
from mcts_core.search.work import Option


class Likeness:
    """Compares an option's text with its siblings' (AlphaLLM, arXiv 2404.12253, state merge).

    By `edit`, the distance is Levenshtein's over characters, divided by the longer text's length;
    by `exact` it is 0 or 1; by `none` no option is ever like another. Options that end inside a
    character are compared by their tokens.
    """

    __slots__ = ("_by", "_threshold")

    def __init__(self, parameters: Merge) -> None:
        self._by = parameters.by
        self._threshold = parameters.threshold if parameters.by == "edit" else 0.0

    def nearest(self, node: Node, option: Option) -> tuple[float, Node | None]:
        """Distance in [0, 1] to the most similar child of `node`, and that child if it is near
        enough to merge with. Children beyond the threshold all count as at distance 1."""
        if self._by == "none":
            return 1.0, None
        nearest: Node | None = None
        best = 1.0
        threshold = self._threshold
        for child in node.children:
            if option.partial or child.partial:
                if child.tokens == option.tokens:
                    return 0.0, child
            elif child.text == option.text:
                return 0.0, child
            elif threshold:
                distance = Levenshtein.normalized_distance(
                    child.text, option.text, score_cutoff=threshold
                )
                if distance <= threshold and (nearest is None or distance < best):
                    nearest, best = child, distance
        return best, nearest

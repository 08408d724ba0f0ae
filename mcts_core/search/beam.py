"""Beam search over options."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Steps, WorkFailed, attempt, gather
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Failed

Settle = Callable[[Sequence[Node]], None]
"""Hears of all states that may be gone on from, best first, before every step; prunes those that
are not to be."""

Plan = Callable[[Sequence[Node]], tuple[int, int, int] | None]
"""How many of these states, best first, take the next step, how many options are drawn below each
of them, and how many tokens each option may have; None to end there."""


def beam(
    tree: Tree,
    starts: Sequence[Node],
    width: int,
    expansion: Expansion,
    evaluation: Evaluation,
    plan: Plan,
    settle: Settle = lambda states: None,
) -> Steps[None]:
    """Grows `starts` until `width` of the kept candidates have finished, nothing is left to grow,
    or `plan`, which is asked before every step, ends it.

    A step draws candidates below the best states that were kept, and keeps the best (`ranked`). A
    finished candidate that is kept takes one place of the beam for good; the KV of those that are
    not kept is given back. States that `plan` leaves out of a step wait until the others have come
    to their ends. Raises `WorkFailed` when all draws of a step fail for want of KV.
    """
    places = width
    candidates, done, waiting = list(starts), list[Node](), list[Node]()
    while True:
        candidates = ranked(candidates, evaluation)
        kept = candidates[:places]
        places -= sum(node.end == "stop" for node in kept)
        for node in (*candidates[len(kept) :], *done):
            if not evaluation.missing(node) or node.end is None:
                evaluation.release(node)
        frontier = [node for node in kept if node.end is None]
        settle((*frontier, *waiting))
        frontier = [node for node in frontier if not node.pruned]
        waiting = [node for node in waiting if not node.pruned]
        if not frontier:
            frontier, waiting = waiting[:places], []
        shape = plan(frontier) if frontier else None
        if shape is None:
            return
        beams, draws, most = shape
        waiting = [*frontier[beams:], *waiting]
        frontier = frontier[:beams]
        grown = yield from gather(
            [attempt(expansion.grow(tree, node, draws, "beam", most)) for node in frontier]
        )
        candidates = [child for new in grown if isinstance(new, list) for child in new]
        if not candidates:
            for failed in grown:
                if isinstance(failed, Failed):
                    raise WorkFailed(failed)
            return
        done = frontier


def ranked(candidates: Sequence[Node], evaluation: Evaluation) -> list[Node]:
    """Best first: by mixed score, or by likelihood per token where not all have one. What a limit
    has cut comes last: it takes no place from what can be gone on with."""
    if all(node.score is not None for node in candidates):
        best = sorted(candidates, key=evaluation.rank, reverse=True)
    else:
        best = sorted(candidates, key=lambda node: node.trajectory_likelihood, reverse=True)
    return sorted(best, key=lambda node: node.end == "length")

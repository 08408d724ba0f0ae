"""The ladder: what is tried when a method cannot go on and there is nothing good to return yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcts_core.search.beam import beam
from mcts_core.search.budget import Meter
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Steps, attempt, gather
from mcts_core.search.outlook import Outlook
from mcts_core.search.parameters import Rung, SearchParameters
from mcts_core.search.search import Fallback, FallbackReason
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Failed


class Ladder:
    """Goes down the rungs that the request allows, each starting from the tree's best nodes.

    What was found before stays in the tree. A rung has as much width as the tokens left pay for. As
    long as there is no terminal it may go on beyond the budget, up to what one plain completion
    costs: its prompt and `max_tokens`.
    """

    __slots__ = (
        "_enough",
        "_evaluation",
        "_expansion",
        "_max_tokens",
        "_meter",
        "_outlook",
        "_parameters",
        "fallback",
    )

    def __init__(
        self,
        parameters: SearchParameters,
        max_tokens: int,
        expansion: Expansion,
        evaluation: Evaluation,
        meter: Meter,
        outlook: Outlook,
        enough: Callable[[Tree], bool],
    ) -> None:
        """`enough`: whether what was found is so good that nothing more is to be."""
        self._parameters = parameters
        self._max_tokens = max_tokens
        self._expansion = expansion
        self._evaluation = evaluation
        self._meter = meter
        self._outlook = outlook
        self._enough = enough
        self.fallback: Fallback | None = None
        """The last rung that was taken."""

    def descend(self, tree: Tree, reason: FallbackReason, rungs: Sequence[Rung]) -> Steps[None]:
        """Takes one rung after the other until there is a terminal that was not there before."""
        found = len(tree.terminals)
        self._evaluation.rollouts = False
        self._meter.settled = True
        self._meter.costs.end_rollouts()
        if not tree.terminals:
            self._meter.finish()
        self._expansion.transpositions.forget()  # a rung grows its own frontier only
        for rung in rungs:
            width = self._parameters.width.beam
            starts = self._outlook.finishable(tree, self._starts(tree, rung))[:width]
            if not starts or self._meter.used_up:
                continue
            if rung == "sample":
                paths, _ = self._outlook.widest(tree, starts[0], len(starts), 1)
                starts = starts[:paths]
            self.fallback = Fallback(rung, reason, self._meter.simulations)
            if reason == "kv_exhausted":
                self._free(tree, starts)
            if rung == "beam":
                yield from attempt(self._beam(tree, starts, width))
            else:
                yield from attempt(self._sample(tree, starts))
            if len(tree.terminals) > found:
                return

    def start(self, tree: Tree) -> Node | None:
        """What the first rung would go on from first."""
        starts = self._starts(tree, "beam")
        return starts[0] if starts else None

    def _beam(self, tree: Tree, starts: Sequence[Node], width: int) -> Steps[None]:
        meter, outlook = self._meter, self._outlook

        def plan(states: Sequence[Node]) -> tuple[int, int, int] | None:
            if self._enough(tree) or meter.used_up:
                return None
            if tree.finished and outlook.finishing(tree, states[0]):
                return None
            beams, draws = outlook.widest(tree, states[0], min(width, len(states)), width)
            return beams, draws, meter.share(self._max_tokens, beams * draws)

        yield from beam(tree, starts, width, self._expansion, self._evaluation, plan)

    def _sample(self, tree: Tree, starts: Sequence[Node]) -> Steps[None]:
        """Completes every start at once; if there is no room for all, the best one alone."""
        share = self._meter.share(self._max_tokens, len(starts))
        done = yield from gather([attempt(self._complete(tree, node, share)) for node in starts])
        if len(starts) > 1 and all(isinstance(node, Failed) for node in done):
            self._free(tree, starts[:1])
            yield from self._complete(tree, starts[0], self._meter.share(self._max_tokens, 1))

    def _complete(self, tree: Tree, node: Node, share: int) -> Steps[Node | None]:
        if node.state is None:
            return None
        draws = self._expansion.draws
        work = draws.to_end(node, min(share, draws.rest(node)), greedy=node.draws == 0)
        return (yield from self._expansion.complete(tree, node, work, "sample"))

    def _starts(self, tree: Tree, rung: Rung) -> list[Node]:
        """Nodes that can be gone on from, best first: leaves, or inner nodes if there is no leaf.

        `sample` takes no steps, so that nodes at `max_depth` will do, too.
        """
        usable = [
            node
            for node in tree.walk()
            if node.state is not None
            and node.end != "stop"
            and node.length < self._max_tokens
            and (rung == "sample" or not (node.end or node.closed))
        ]
        leaves = [node for node in usable if not node.children]
        starts = leaves or [node for node in usable if not node.solved]
        starts.sort(key=self._evaluation.rank, reverse=True)
        return starts

    def _free(self, tree: Tree, keep: Sequence[Node]) -> None:
        """Gives back the KV of all nodes but `keep`, and but ends that are still to be scored."""
        kept = set(keep)
        for node in tree.walk():
            if node not in kept and not (node.end == "stop" and self._evaluation.missing(node)):
                self._evaluation.release(node)
                node.closed = True

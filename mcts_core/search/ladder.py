"""The ladder: what is tried when a method cannot go on and there is nothing good to return yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

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
    ) -> None:
        self._parameters = parameters
        self._max_tokens = max_tokens
        self._expansion = expansion
        self._evaluation = evaluation
        self._meter = meter
        self._outlook = outlook
        self.fallback: Fallback | None = None
        """The last rung that was taken."""

    def descend(
        self,
        tree: Tree,
        reason: FallbackReason,
        rungs: Sequence[Rung],
        enough: Callable[[Tree], bool],
    ) -> Steps[None]:
        """Takes one rung after the other until there is a terminal that was not there before.
        `enough`: whether what was found is so good that nothing more is to be."""
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
            if rung == "beam" and reason == "budget" and self._outlook.lone(tree, starts[0]):
                yield from attempt(self._path(tree))
            elif rung == "beam":
                yield from attempt(self._beam(tree, starts, width, enough))
            else:
                yield from attempt(self._sample(tree, starts))
            if len(tree.terminals) > found:
                return

    def start(self, tree: Tree) -> Node | None:
        """What the ladder would go on from first, if there is room for it."""
        return next(iter(self._prospects(tree)), None)

    def _path(self, tree: Tree) -> Steps[None]:
        """Where tokens are left for one path only: each step goes on from the best state from which
        a trajectory can still be finished, wherever in the tree. So a path that leads nowhere is
        left for another as long as there is room for one, and not written to its end."""
        barren: set[Node] = set()
        while not (tree.finished or self._meter.used_up):
            states = [node for node in self._prospects(tree) if node not in barren]
            if not states:
                return
            state, *_ = self._outlook.within_reach(tree, states)
            most = self._meter.share(self._max_tokens, 1)
            if not (yield from self._expansion.grow(tree, state, 1, "beam", most)):
                barren.add(state)

    def _beam(
        self, tree: Tree, starts: Sequence[Node], width: int, enough: Callable[[Tree], bool]
    ) -> Steps[None]:
        meter, outlook = self._meter, self._outlook

        def plan(states: Sequence[Node]) -> tuple[int, int, int] | None:
            if enough(tree) or meter.used_up:
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
        """What `rung` can go on from, best first: leaves, or inner nodes if there is no leaf."""
        usable = self._unfinished(tree, by_steps=rung != "sample")
        leaves = [node for node in usable if not node.children]
        starts = leaves or [node for node in usable if not node.solved]
        starts.sort(key=self._evaluation.rank, reverse=True)
        return starts

    def _prospects(self, tree: Tree) -> list[Node]:
        """All nodes that another option may be drawn below, best first; of equals the deepest."""
        usable = self._unfinished(tree, by_steps=True)
        found = [(self._hope(node), node.depth, node) for node in usable]
        found.sort(key=itemgetter(0, 1), reverse=True)
        return [node for *_, node in found]

    def _unfinished(self, tree: Tree, *, by_steps: bool) -> list[Node]:
        """Nodes that can be gone on from. Who does not go by steps, but completes at once, can also
        begin where no more steps may be taken."""
        return [
            node
            for node in tree.walk()
            if node.state is not None
            and node.end != "stop"
            and node.length < self._max_tokens
            and not (by_steps and (node.end or node.closed))
        ]

    @staticmethod
    def _hope(node: Node) -> tuple[bool, float]:
        """What another option below `node` may be worth: as much as the node itself, or as its
        parent where no critic speaks of it; once it has children, the mean of that and of their
        values. Without any score, the likelihood of the least likely of them."""
        above: Node | None = node
        while above is not None and above.score is None:
            above = above.parent
        if above is None or above.score is None:
            return False, min([each.trajectory_likelihood for each in (node, *node.children)])
        values = [child.value for child in node.children if child.visits]
        return True, (above.score + sum(values)) / (1 + len(values))

    def _free(self, tree: Tree, keep: Sequence[Node]) -> None:
        """Gives back the KV of all nodes but `keep`, and but ends that are still to be scored."""
        kept = set(keep)
        for node in tree.walk():
            if node not in kept and not (node.end == "stop" and self._evaluation.missing(node)):
                self._evaluation.release(node)
                node.closed = True

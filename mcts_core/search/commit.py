"""Commitment: a search that settles one step after the other, and never goes back on one."""

from __future__ import annotations

from collections.abc import Sequence

from mcts_core.search import readout
from mcts_core.search.budget import Meter
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.outlook import Outlook
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import Announce, Work
from mcts_core.stops import begun


class Commitment:
    """Divides the budget over the steps of the best trajectory, and re-roots the tree at each.

    The *base* is the end of the steps committed so far: the root at first. Its next step is due
    when one of the request's limits has seen its share used since the last commitment, the share
    being what was left of it then, divided by the steps from the base to the end of the
    trajectory that the readout prefers; or when the readout can prefer no other step any more.

    A search that may come back to any node commits no step before a terminal is known (`due`): from
    the first step on there is always a finished, scored trajectory that begins with all that was
    committed. One that goes on from a few states only commits what they have in common, too, and
    divides its budget over the steps that are expected (`follow`).
    """

    __slots__ = (
        "_evaluation",
        "_held",
        "_marks",
        "_meter",
        "_outbox",
        "_outlook",
        "_readout",
        "_stop",
        "_stream",
        "base",
    )

    def __init__(
        self,
        order: readout.Readout,
        evaluation: Evaluation,
        meter: Meter,
        outlook: Outlook,
        outbox: list[Work],
        *,
        stream: bool,
        stop: tuple[str, ...],
    ) -> None:
        """`order` is not "vote". With `stream` each step is announced as it is committed, but for
        an end of it with which one of the strings in `stop` may begin: the next step may complete
        it, and then it is no part of the text."""
        self._readout = order
        self._evaluation = evaluation
        self._meter = meter
        self._outlook = outlook
        self._outbox = outbox
        self._stream = stream
        self._stop = stop
        self._held = ""
        """Of what was committed, the end that was not announced yet."""
        self._marks: tuple[float, ...] = ()
        self.base: Node | None = None
        """None before the first step."""

    def due(self, tree: Tree) -> Node | None:
        """The step to be committed now: a child of the base, if it is time."""
        if not tree.finished:
            return None
        base = self.base or tree.root
        leader = next(iter(readout.terminals(tree, self._readout, self._evaluation)))
        child = leader.path()[base.depth + 1]
        if child.end is not None:
            return None  # the last step is the search's end
        shared = self._used(tree, leader.depth - base.depth)
        return child if shared or self._settled(base, child) else None

    def follow(self, tree: Tree, states: Sequence[Node]) -> None:
        """Commits the steps that are due, with nothing in flight, in a search that goes on from
        `states` alone, the best of them first. Those that are pruned are not to be gone on from.

        A step is due if all states go through it, and the trajectory that the readout prefers as
        well, where there is one; or if its share is used: it is then the step to that trajectory,
        or to the best state.
        """
        while True:
            states = [node for node in states if not node.pruned]
            finished = readout.terminals(tree, self._readout, self._evaluation)
            leader = next(iter(finished), states[0] if states else None)
            base = self.base or tree.root
            if leader is None or leader.depth <= base.depth:
                return
            step = leader.path()[base.depth + 1]
            steps = self._outlook.steps_left(tree, base)
            if leader.end == "stop":
                steps = leader.depth - base.depth
            common = all(step in node.path() for node in states)
            if step.end is not None or not (common or self._used(tree, steps)):
                return
            self.take(tree, step)

    def take(self, tree: Tree, child: Node) -> None:
        """Commits `child`, with nothing in flight. All beside it is pruned and its KV given back,
        as is that of the states before it, whose blocks it shares."""
        for node in tree.prune(child):
            self._evaluation.release(node)
        assert child.parent is not None
        self._evaluation.release(child.parent)
        self._marks = tuple(used for used, _ in self._meter.limits(tree))
        self.base = child
        if self._stream:
            text = self._held[: len(self._held) - child.cut] + child.text
            held = begun(text, self._stop)
            self._held = text[len(text) - held :]
            self._outbox.append(Announce(text[: len(text) - held], child.logprobs))

    def _used(self, tree: Tree, steps: int) -> bool:
        """Whether some limit's share of one of `steps` steps was used since the last commitment."""
        limits = self._meter.limits(tree)
        marks = self._marks or (0.0,) * len(limits)
        return any(
            (used - mark) * steps >= limit - mark
            for (used, limit), mark in zip(limits, marks, strict=True)
        )

    def _settled(self, base: Node, child: Node) -> bool:
        """Whether the readout can prefer no other child of `base`, whatever is still found.

        Where no further option can be drawn and nothing is left to be found below the others,
        their best terminals stay what they are; their visits and means may still change.
        """
        rivals = [node for node in base.children if node is not child]
        if not base.closed:
            return False
        if self._readout == "best":
            return all(node.solved for node in rivals)
        return not rivals

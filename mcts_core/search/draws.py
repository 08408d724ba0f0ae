"""Draws: the work that an option is drawn by, and whether anything can follow it."""

from __future__ import annotations

from dataclasses import replace

from mcts_core.search.boundary import boundary
from mcts_core.search.task import Task
from mcts_core.search.tree import End, Node
from mcts_core.search.work import Actions, Boundary, Extend, Option


class Draws:
    """What the request says of options: where they end, how they are sampled, or which they are."""

    __slots__ = (
        "_actions_to_end",
        "_boundary",
        "_greedy",
        "_max_depth",
        "_max_option",
        "_max_tokens",
        "_sampled",
        "_stop",
        "actions",
    )

    def __init__(self, task: Task) -> None:
        parameters = task.parameters
        self.actions = task.actions
        """The only options that there are, as token ids; empty where any text is one."""
        self._actions_to_end = task.actions_to_end
        self._boundary = Boundary() if task.actions else boundary(parameters.step)
        self._greedy = replace(task.sampling, temperature=0.0)
        self._sampled = replace(
            task.sampling, temperature=parameters.temperature, min_p=parameters.min_p
        )
        self._max_option = max(map(len, task.actions), default=parameters.step.limit)
        self._max_tokens = task.max_tokens
        self._max_depth = parameters.max_depth
        self._stop = task.stop

    def longest(self, node: Node) -> int:
        """Most tokens of an option below `node`."""
        return min(self._max_option, self._max_tokens - node.length)

    def options(
        self, node: Node, count: int, limit: int, critics: tuple[str, ...], *, embed: bool
    ) -> Extend:
        """`count` options below `node` of at most `limit` tokens, the very first of them greedy;
        no more than there are actions left, which are then all drawn."""
        assert node.state is not None
        actions: Actions | None = None
        if self.actions:
            left = len(self.actions) - len(node.avoid)
            actions = Actions(self.actions, each=0 < left <= count)
            count = left if actions.each else count
        first = node.draws
        node.draws = first + count
        return Extend(
            node.state,
            self._sampled,
            (node.id, first),
            self._boundary,
            limit,
            self._stop,
            critics,
            tuple(node.avoid.values()),
            draws=count,
            greedy_first=first == 0,
            actions=actions,
            embed=embed,
        )

    def rest(self, node: Node) -> int:
        """Most tokens of what is left of a trajectory below `node`."""
        return self._max_tokens - node.length

    def to_end(self, node: Node, limit: int, *, greedy: bool) -> Extend:
        """What is left of the trajectory below `node` in one option of at most `limit` tokens."""
        assert node.state is not None
        first = node.draws
        node.draws += 1
        return Extend(
            node.state,
            self._greedy if greedy else self._sampled,
            (node.id, first),
            Boundary(),
            limit,
            self._stop,
            actions=self._actions_to_end(node.depth),
        )

    def end(self, node: Node, option: Option, *, whole: bool = False) -> End | None:
        """Why nothing follows an `option` below `node`; `whole` if it was to go on to the
        trajectory's end.

        Where options are actions, a trajectory of `max_depth` of them is finished.
        """
        if option.finish in ("eos", "stop"):
            return "stop"
        last = node.depth + 1 >= self._max_depth
        if self.actions and option.finish == "step" and (whole or last):
            return "stop"
        if len(option.tokens) >= self.rest(node) or last or self.torn(node, option, whole=whole):
            return "length"
        return None

    def torn(self, node: Node, option: Option, *, whole: bool = False) -> bool:
        """Whether an `option` was cut before it had all the tokens that it might have: the budget
        had no more for it, or the model's context is full. It is no step."""
        if option.finish != "length":
            return False
        return len(option.tokens) < (self.rest(node) if whole else self.longest(node))

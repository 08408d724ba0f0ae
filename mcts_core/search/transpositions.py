"""Transpositions: two ways to one state."""

from __future__ import annotations

from mcts_core.patterns import compiled, within
from mcts_core.search.parameters import StatePattern
from mcts_core.search.tree import Node
from mcts_core.search.work import Option

Key = tuple[int, tuple[str | None, ...]]
"""Depth, and what the expression captured."""

_REGEX_SECONDS = 0.02
"""An expression may backtrack for ever, and all requests wait for this thread."""


class StateRuleTooSlow(Exception):
    """A request's regular expression takes too long; the message names the field."""


class Transpositions:
    """Knows the states of a tree by what their last options say of them.

    The first node that comes to a state stands for it; later ones at the same depth lead there
    and are no nodes of their own. So the tree stays a tree, every text in it was computed as it
    stands, and whatever can be found below a state can be found below its first node.
    """

    __slots__ = ("_first", "_pattern")

    def __init__(self, rule: StatePattern | None) -> None:
        self._pattern = None if rule is None else compiled(rule.regex)
        self._first: dict[Key, Node] = {}

    def key(self, parent: Node, option: Option) -> Key | None:
        """What identifies the unfinished state that `option` leads to; None if nothing does.

        Raises `StateRuleTooSlow`.
        """
        pattern = self._pattern
        if pattern is None or option.finish != "step":
            return None
        try:
            match = within(
                _REGEX_SECONDS, lambda timeout: pattern.search(option.text, timeout=timeout)
            )
        except TimeoutError:
            message = f"search.merge.state.regex took more than {_REGEX_SECONDS} s on one option"
            raise StateRuleTooSlow(message) from None
        if match is None:
            return None
        return parent.depth + 1, match.groups() or (match[0],)

    def first(self, key: Key | None) -> Node | None:
        """The node that stands for a state; None if there is none that can still be grown."""
        node = None if key is None else self._first.get(key)
        if node is None or (node.state is None and not node.children):
            return None
        return node

    def add(self, key: Key | None, node: Node) -> None:
        """`node` stands for its state from now on."""
        if key is not None and node.end is None:
            self._first[key] = node

    def forget(self) -> None:
        """What is grown from now on is not led back to what was there before."""
        self._first.clear()

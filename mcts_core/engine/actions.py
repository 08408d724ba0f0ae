"""Options out of a fixed list: which tokens may come next."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from mcts_core.search.work import Actions, Sibling


class ActionFilter:
    """Follows one option along the actions that it may be, all of them as a trie."""

    __slots__ = ("_actions", "_alive", "_left", "_own", "_position")

    def __init__(self, actions: Actions, siblings: Sequence[Sibling], draws: Sequence[int]) -> None:
        """`siblings` are the actions that were drawn already; `draws` share what is left of them
        if each is to take its own."""
        taken = {sibling.tokens for sibling in siblings}
        left = [action for action in actions.tokens if action not in taken]
        self._actions = actions
        self._left = actions.count
        self._own = dict(zip(draws, left, strict=False)) if actions.each else {}
        self._position = 0
        self._alive = [(action, action not in taken) for action in actions.tokens]
        """Those that begin like the option, and whether they are still to be drawn."""

    def allowed(self) -> tuple[int, ...]:
        """Tokens that go on with an action, drawn already or not."""
        return tuple({action[self._position]: None for action, _ in self._alive})

    def left(self, draw: int) -> tuple[int, ...]:
        """Those of them that lead to an action that `draw` may come to."""
        at = self._position
        if draw in self._own:
            return (self._own[draw][at],)
        tokens = {action[at]: None for action, new in self._alive if new}
        return tuple(tokens) or self.allowed()

    def follow(self, token: int) -> bool:
        """The option goes on with `token`; True when it is complete."""
        at = self._position
        self._alive = [entry for entry in self._alive if entry[0][at] == token]
        self._position = at + 1
        if not any(len(action) == at + 1 for action, _ in self._alive):
            return False
        self._left -= 1
        self._position = 0
        self._alive = [(action, True) for action in self._actions.tokens]
        return self._left == 0

    def copy(self) -> ActionFilter:
        """A filter for another option that has gone the same way so far."""
        return copy(self)

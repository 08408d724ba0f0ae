"""Sampling without replacement: a new option avoids the options that its siblings already are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp

from mcts_core.search.work import Sibling


class SiblingFilter:
    """Follows one option while it is drawn, beside the siblings that share its tokens so far.

    The probability of going on through a token is reduced by the mass of the siblings that go on
    through it: `p(x) * (1 - sum of p(rest of sibling | x))`. Drawn so, options follow the policy's
    own distribution conditioned on being new (Shi, Bieber and Singh, "Incremental sampling without
    replacement for sequence models", 2020), and no token is spent on a duplicate.
    """

    __slots__ = ("_alive", "_position")

    def __init__(self, siblings: Sequence[Sibling]) -> None:
        self._alive: list[tuple[tuple[int, ...], list[float]]] = [
            (sibling.tokens, _mass_behind(sibling)) for sibling in siblings if sibling.tokens
        ]
        self._position = 0

    def factors(self) -> Mapping[int, float]:
        """What to multiply the next token's probabilities by, by token id; others stay."""
        taken: dict[int, float] = {}
        for tokens, behind in self._alive:
            token = tokens[self._position]
            taken[token] = taken.get(token, 0.0) + behind[self._position]
        return {token: max(0.0, 1.0 - mass) for token, mass in taken.items()}

    def follow(self, token: int) -> None:
        """The option goes on with `token`."""
        position = self._position
        self._position = position + 1
        self._alive = [
            entry
            for entry in self._alive
            if entry[0][position] == token and len(entry[0]) > position + 1
        ]

    def copy(self) -> SiblingFilter:
        """A filter for another option that has gone the same way so far."""
        other = SiblingFilter(())
        other._alive = self._alive
        other._position = self._position
        return other

    def __bool__(self) -> bool:
        return bool(self._alive)


def _mass_behind(sibling: Sibling) -> list[float]:
    """For each of the sibling's tokens, the probability of all tokens after it."""
    masses: list[float] = []
    total = 0.0
    for logprob in reversed(sibling.draw_logprobs):
        masses.append(exp(total))
        total += logprob
    masses.reverse()
    return masses

"""A toy world that carries out a search's work in plain Python: Countdown over a few numbers.

Tokens are characters. The policy writes one line for each operation and ends when one number is
left; critics know the truth, with noise if asked for. Everything follows from the work itself, so
that the order in which work is done changes nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import log

from mcts_core.search.work import (
    Announce,
    Boundary,
    Extend,
    Extended,
    Failed,
    FailureReason,
    Finish,
    Open,
    Opened,
    Option,
    Outcome,
    Release,
    RolledOut,
    Rollout,
    Sampling,
    Score,
    Scored,
    TokenLogprob,
    Work,
)

EOS = 3


@dataclass(slots=True, eq=False)
class WorldState:
    tokens: tuple[int, ...]
    parent: WorldState | None = None
    released: bool = False
    read: set[str] = field(default_factory=set)
    """Models beside the policy that have computed it."""


@lru_cache(maxsize=100_000)
def operations(numbers: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Every line that can be written, and the numbers that are left after it."""
    found: dict[str, tuple[int, ...]] = {}
    for i, low in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            high = numbers[j]
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            made = [(f"{low}+{high}", low + high), (f"{low}*{high}", low * high)]
            made.append((f"{high}-{low}", high - low))
            if low and high % low == 0:
                made.append((f"{high}/{low}", high // low))
            for text, result in made:
                found[f"{text}={result}\n"] = tuple(sorted((*rest, result)))
    return tuple(found.items())


@lru_cache(maxsize=100_000)
def reachable(numbers: tuple[int, ...], target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    return any(reachable(rest, target) for _, rest in operations(numbers))


def noise(*key: object) -> float:
    """Uniform in [0, 1), a function of the key alone."""
    return random.Random(repr(key)).random()


@dataclass
class World:
    """Carries out work. `fails` may say why a piece of work fails instead; `readers` are critics
    with a model of their own, which read what they score from the nearest state that they know."""

    numbers: tuple[int, ...] = (2, 3, 4, 6)
    target: int = 24
    critic_noise: float = 0.0
    lies: float = 0.0
    """How often the policy writes one too many for a result; the critics believe what it writes."""
    context: int = 10_000
    readers: frozenset[str] = frozenset()
    fails: Callable[[Work], FailureReason | None] = lambda work: None
    spent: int = 0
    done: list[Work] = field(default_factory=list)
    opened: list[WorldState] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> tuple[int, ...]:
        return tuple(map(ord, f"{self.numbers}>{self.target}\n"))

    def do(self, work: Work) -> Outcome:
        self.done.append(work)
        reason = self.fails(work)
        if reason is not None:
            return Failed(reason, f"the test says {reason}")
        match work:
            case Open():
                state = self._state(work.tokens)
                cost = len(work.tokens) + self._read(state, work.critics)
                return Opened(state, self._scores(state, work.critics), self._pay(cost))
            case Extend():
                return self._extend(work)
            case Rollout():
                base = self._tokens(work.state)
                tokens, finish = self._complete(work, base)
                assert isinstance(work.state, WorldState)
                cost = self._read_by(work.state, "rollout") + self._read(work.state, work.critics)
                end = WorldState((*base, *tokens), work.state)
                cost += len(tokens) + self._read(end, work.critics)
                scores = self._scores(end, work.critics)
                return RolledOut(tokens, text(tokens), finish, scores, self._pay(cost))
            case Score():
                self._tokens(work.state)
                assert isinstance(work.state, WorldState)
                cost = self._read(work.state, work.critics)
                return Scored(self._scores(work.state, work.critics), self._pay(cost))
            case Release() | Announce():
                raise AssertionError(f"{type(work).__name__} is not answered")

    def release(self, work: Release) -> None:
        assert isinstance(work.state, WorldState)
        assert not work.state.released, "released twice"
        work.state.released = True

    @property
    def held(self) -> int:
        """States whose KV is held."""
        return sum(not state.released for state in self.opened)

    def _complete(self, work: Rollout, base: tuple[int, ...]) -> tuple[tuple[int, ...], Finish]:
        """A rollout's tokens below `base`, and why they end."""
        tokens, finish, _ = self._write(
            base, work.sampling, work.key, Boundary(), work.max_tokens, ()
        )
        return tokens, finish

    def _extend(self, work: Extend) -> Outcome:
        base = self._tokens(work.state)
        if len(base) >= self.context:
            return Failed("context_length", "the context is full")
        limit = min(work.max_tokens, self.context - len(base))
        avoided = tuple(sibling.tokens for sibling in work.siblings)
        node, first = work.key
        agreed: dict[tuple[int, ...], tuple[Finish, float, list[int]]] = {}
        for draw in range(first, first + work.draws):
            greedy = work.greedy_first and draw == first
            sampling = replace(work.sampling, temperature=0.0) if greedy else work.sampling
            tokens, finish, logprob = self._write(
                base, sampling, (node, draw), work.boundary, limit, avoided
            )
            agreed.setdefault(tokens, (finish, logprob, []))[2].append(draw)
        options: list[Option] = []
        parent = work.state
        assert isinstance(parent, WorldState)
        cost = self._read(parent, work.critics)
        for tokens, (finish, logprob, draws) in agreed.items():
            state = self._state((*base, *tokens), parent)
            cost += self._read(state, work.critics)
            each = logprob / len(tokens)
            option = Option(
                state,
                tokens,
                tuple(TokenLogprob(token, each) for token in tokens),
                (each,) * len(tokens),
                text(tokens),
                finish,
                self._scores(state, work.critics),
                tuple(draws),
            )
            options.append(option)
        prefixes = {tokens[:end] for tokens in agreed for end in range(1, len(tokens) + 1)}
        return Extended(tuple(options), self._pay(cost + len(prefixes)))

    def _write(
        self,
        base: tuple[int, ...],
        sampling: Sampling,
        key: tuple[int, int],
        boundary: Boundary,
        limit: int,
        avoided: Sequence[tuple[int, ...]],
    ) -> tuple[tuple[int, ...], Finish, float]:
        tokens: tuple[int, ...] = ()
        total = 0.0
        line = 0
        while True:
            lines = self._lines((*base, *tokens))
            options = [self._cut((*tokens, *rest), boundary, limit) for rest, _ in lines]
            weights = [weight for _, weight in lines]
            new = [w if o[0] not in avoided else 0.0 for o, w in zip(options, weights, strict=True)]
            if sum(new) == 0.0:
                new = weights
            if sampling.temperature == 0:
                index = new.index(max(new))
            else:
                heated = [weight ** (1 / sampling.temperature) for weight in new]
                at = noise(sampling.seed, key, line) * sum(heated)
                index = 0
                while at >= heated[index] and index < len(heated) - 1:
                    at -= heated[index]
                    index += 1
            total += log(weights[index] / sum(weights))
            option, finish = options[index]
            if finish is not None:
                return option, finish, total
            tokens = option
            line += 1

    def _cut(
        self, tokens: tuple[int, ...], boundary: Boundary, limit: int
    ) -> tuple[tuple[int, ...], Finish | None]:
        """The option that `tokens` begin with, and why it ends; None while it goes on."""
        for count in range(1, len(tokens) + 1):
            if tokens[count - 1] == EOS:
                return tokens[:count], "eos"
            written = text(tokens[:count])
            if count >= boundary.min_tokens and (
                count == boundary.tokens
                or any(string in written for string in boundary.strings)
                or (boundary.regex is not None and re.search(boundary.regex, written))
            ):
                return tokens[:count], "step"
            if count >= limit:
                return tokens[:count], "length"
        return tokens, None

    def _lines(self, tokens: tuple[int, ...]) -> list[tuple[tuple[int, ...], float]]:
        """What the policy may write up to the end of the line, and its weights."""
        numbers, begun = self._left(tokens)
        if len(numbers) == 1:
            rest = f"answer {numbers[0]}"[len(begun) :]
            return [((*map(ord, rest), EOS), 1.0)]
        lines: list[tuple[str, float]] = []
        for line, _ in operations(numbers):
            weight = 0.05 + noise(numbers, line)
            lines.append((line, weight * (1 - self.lies)))
            if self.lies:
                written, result = line.split("=")
                lines.append((f"{written}={int(result) + 1}\n", weight * self.lies))
        return [
            (tuple(map(ord, line[len(begun) :])), weight)
            for line, weight in lines
            if line.startswith(begun)
        ]

    def _left(self, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        """The numbers left after the whole lines, and what is begun of the next."""
        numbers = tuple(sorted(self.numbers))
        *lines, begun = text(tokens[len(self.prompt) :]).split("\n")
        for line in lines:
            low, high, result = map(int, re.split(r"\D", line))
            left = list(numbers)
            left.remove(low)
            left.remove(high)
            numbers = tuple(sorted((*left, result)))
        return numbers, begun

    def _scores(self, state: WorldState, critics: Sequence[str]) -> dict[str, float]:
        return {critic: self._score(state, critic) for critic in critics}

    def _score(self, state: WorldState, critic: str) -> float:
        tokens = state.tokens
        numbers, _ = self._left(tokens)
        if critic == "orm":
            truth = float(tokens[-1] == EOS and numbers == (self.target,))
        else:
            truth = float(reachable(numbers, self.target))
        if critic == "noise":
            truth = 0.5
        spread = self.critic_noise or (1.0 if critic == "noise" else 0.0)
        return truth * (1 - spread) + spread * noise(critic, tokens)

    def _read(self, state: WorldState, critics: Sequence[str]) -> int:
        """Tokens that those of `critics` who read have to read before they can score `state`."""
        return sum(self._read_by(state, critic) for critic in critics if critic in self.readers)

    def _read_by(self, state: WorldState, model: str) -> int:
        above: WorldState | None = state
        while above is not None and (above.released or model not in above.read):
            if not above.released:
                above.read.add(model)
            above = above.parent
        return len(state.tokens) - (0 if above is None else len(above.tokens))

    def _state(self, tokens: tuple[int, ...], parent: WorldState | None = None) -> WorldState:
        state = WorldState(tokens, parent)
        self.opened.append(state)
        return state

    def _tokens(self, state: object) -> tuple[int, ...]:
        assert isinstance(state, WorldState)
        assert not state.released, "used after its release"
        return state.tokens

    def _pay(self, tokens: int) -> int:
        self.spent += tokens
        return tokens


def text(tokens: Sequence[int]) -> str:
    return "".join(chr(token) for token in tokens if token != EOS)

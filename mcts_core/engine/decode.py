"""Options while they are drawn token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

from mcts_core.engine.actions import ActionFilter
from mcts_core.engine.noise import Noise
from mcts_core.engine.sampler import Draw, Drawn
from mcts_core.engine.siblings import SiblingFilter
from mcts_core.engine.text import CONTEXT_TOKENS, Decoder, OptionText, Written, read
from mcts_core.models.logits import LogitsRow
from mcts_core.query import TokenEvent
from mcts_core.search.work import Actions, Boundary, Finish, Sampling, Sibling, TokenLogprob


class Decode:
    """One sequence of tokens, and the draws that have come to it so far.

    Says how their next tokens are to be drawn and when the option ends. Draws that part go on in
    a `split`. `logits` are set whenever tokens can be drawn.
    """

    __slots__ = (
        "_actions",
        "_before",
        "_boundary_tokens",
        "_decoder",
        "_emit",
        "_end_tokens",
        "_greedy_draw",
        "_limit",
        "_noise",
        "_sampling",
        "_siblings",
        "_stream",
        "_text",
        "_tokens",
        "_written",
        "drawn",
        "draws",
        "finish",
        "logits",
    )

    def __init__(
        self,
        *,
        sampling: Sampling,
        node: int,
        draws: tuple[int, ...],
        greedy_draw: int | None,
        boundary: Boundary,
        boundary_tokens: frozenset[int] | None,
        stop: tuple[str, ...],
        siblings: Sequence[Sibling],
        actions: Actions | None,
        limit: int,
        before: Sequence[int],
        tail: str,
        begun: str,
        end_tokens: frozenset[int],
        decoder: Decoder,
        stream: int | None = None,
        emit: Callable[[TokenEvent], None] | None = None,
    ) -> None:
        """`boundary_tokens`, when given, are all tokens that meet the boundary, each by itself:
        no text has to be looked at. `before` are the tokens that the option continues; `tail` and
        `begun` as for `OptionText`."""
        self._sampling = sampling
        self._noise = Noise(sampling.seed, node)
        self.draws = draws
        self._greedy_draw = greedy_draw
        self._limit = limit
        self._before = before[-CONTEXT_TOKENS:]
        self._end_tokens = end_tokens
        self._decoder = decoder
        self._siblings = SiblingFilter(siblings) if siblings else None
        self._actions = ActionFilter(actions, siblings, draws) if actions is not None else None
        self._boundary_tokens = boundary_tokens
        self._tokens = boundary.tokens
        self._stream, self._emit = stream, emit
        watched = boundary_tokens is None or stop or stream is not None
        self._text = (
            OptionText(decoder, self._before, boundary, stop, tail=tail, begun=begun)
            if watched
            else None
        )
        self._written: Written | None = None
        self.logits: LogitsRow | None = None
        self.drawn: list[Drawn] = []
        """The option's tokens so far."""
        self.finish: Finish | None = None

    def rows(self, tokens: Sequence[int], prompt_length: int) -> list[Draw]:
        """What each draw's next token depends on; `tokens` are the sequence's so far."""
        sampling, position = self._sampling, len(self.drawn)
        factors = self._siblings.factors() if self._siblings else {}
        actions = self._actions
        allowed = None if actions is None else actions.allowed()
        rows: list[Draw] = []
        for draw in self.draws:
            greedy = not sampling.temperature or draw == self._greedy_draw
            noise = 0.0 if greedy else self._noise.uniform(draw, position)
            left = None if actions is None else actions.left(draw)
            rows.append(
                Draw(sampling, greedy, noise, factors, tokens, prompt_length, allowed, left)
            )
        return rows

    def split(self, draws: tuple[int, ...]) -> Decode:
        """The same sequence for some of its draws, which are about to part from the others."""
        other = copy(self)
        other.draws = draws
        self.draws = tuple(draw for draw in self.draws if draw not in draws)
        other.drawn = list(self.drawn)
        other._noise = copy(self._noise)
        other._siblings = self._siblings.copy() if self._siblings else None
        other._actions = self._actions.copy() if self._actions is not None else None
        other._text = self._text.copy() if self._text is not None else None
        return other

    def take(self, drawn: Drawn) -> int:
        """The token that its draws agree on; sets `finish` when the option ends with it."""
        self.logits = None
        self.drawn.append(drawn)
        token = drawn.logprob.token
        if self._siblings:
            self._siblings.follow(token)
        complete = self._actions is not None and self._actions.follow(token)
        if token in self._end_tokens:
            self.finish = "eos"
        elif self._text is not None:
            self.finish = self._text.feed(token)
        elif (self._boundary_tokens and token in self._boundary_tokens) or (
            len(self.drawn) == self._tokens
        ):
            self.finish = "step"
        if self.finish is None and complete:
            self.finish = "step"
        if self.finish is None and len(self.drawn) >= self._limit:
            self.finish = "length"
        if self._emit is not None and self._stream is not None:
            self._announce(drawn.logprob)
        return token

    def written(self) -> Written:
        """The option's text; nothing may be drawn after it was asked for."""
        if self._written is None:
            final = self.finish == "eos"
            if self._text is not None:
                self._written = self._text.finish(final=final)
            else:
                tokens = [drawn.logprob.token for drawn in self.drawn]
                self._written = read(self._decoder, self._before, tokens, final=final)
        return self._written

    def _announce(self, logprob: TokenLogprob) -> None:
        assert self._text is not None
        assert self._emit is not None
        assert self._stream is not None
        final = self.finish is not None
        if final:
            self.written()
        text = self._text.release(final=final)
        self._emit(TokenEvent(self._stream, text, (logprob,)))

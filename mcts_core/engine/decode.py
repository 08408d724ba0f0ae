"""One option while it is drawn token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mcts_core.engine.noise import uniform
from mcts_core.engine.sampler import Draw, Drawn
from mcts_core.engine.siblings import SiblingFilter
from mcts_core.engine.text import Decoder, OptionText
from mcts_core.query import TokenEvent
from mcts_core.search.work import Boundary, Finish, Sampling, Sibling, TokenLogprob


class Decode:
    """Says how the next token is to be drawn and when the option ends.

    `logits` `[vocabulary]` are set whenever a token can be drawn.
    """

    __slots__ = (
        "_before",
        "_boundary_tokens",
        "_decoder",
        "_emit",
        "_end_tokens",
        "_key",
        "_limit",
        "_sampling",
        "_siblings",
        "_start",
        "_stream",
        "_text",
        "draw_logprobs",
        "finish",
        "logits",
        "logprobs",
    )

    def __init__(
        self,
        *,
        sampling: Sampling,
        key: tuple[int, int],
        boundary: Boundary,
        boundary_tokens: frozenset[int] | None,
        stop: tuple[str, ...],
        siblings: Sequence[Sibling],
        limit: int,
        before: Sequence[int],
        end_tokens: frozenset[int],
        decoder: Decoder,
        stream: int | None = None,
        emit: Callable[[TokenEvent], None] | None = None,
    ) -> None:
        """`boundary_tokens`, when given, are all tokens that meet the boundary, each by itself:
        no text has to be looked at. `before` are the tokens that the option continues."""
        self._sampling = sampling
        self._key = key
        self._limit = limit
        self._start = len(before)
        self._before = before[-8:]
        self._end_tokens = end_tokens
        self._decoder = decoder
        self._siblings = SiblingFilter(siblings) if siblings else None
        self._boundary_tokens = boundary_tokens
        self._stream, self._emit = stream, emit
        watched = boundary_tokens is None or stop or stream is not None
        self._text = OptionText(decoder, before, boundary, stop) if watched else None
        self.logits: torch.Tensor | None = None
        self.logprobs: list[TokenLogprob] = []
        self.draw_logprobs: list[float] = []
        self.finish: Finish | None = None

    def draw(self, tokens: Sequence[int], prompt_length: int) -> Draw:
        """What the next token's draw depends on; `tokens` are the sequence's so far."""
        sampling = self._sampling
        noise = 0.0
        if sampling.temperature:
            noise = uniform(sampling.seed, *self._key, len(self.logprobs))
        factors = self._siblings.factors() if self._siblings else {}
        return Draw(sampling, noise, factors, tokens, prompt_length)

    def take(self, drawn: Drawn) -> int:
        """The token that was drawn; sets `finish` when the option ends with it."""
        self.logits = None
        self.logprobs.append(drawn.logprob)
        self.draw_logprobs.append(drawn.draw_logprob)
        token = drawn.logprob.token
        if self._siblings:
            self._siblings.follow(token)
        if token in self._end_tokens:
            self.finish = "eos"
        elif self._text is not None:
            self.finish = self._text.feed(token)
        elif self._boundary_tokens and token in self._boundary_tokens:
            self.finish = "step"
        if self.finish is None and len(self.logprobs) >= self._limit:
            self.finish = "length"
        if self._emit is not None and self._stream is not None:
            self._announce(drawn.logprob)
        return token

    def text(self) -> str:
        """The option's text; ends before a stop string."""
        if self._text is not None:
            return self._text.finish()
        tokens = [logprob.token for logprob in self.logprobs]
        known = len(self._decoder.decode(self._before))
        return self._decoder.decode([*self._before, *tokens])[known:]

    def _announce(self, logprob: TokenLogprob) -> None:
        assert self._text is not None
        assert self._emit is not None
        assert self._stream is not None
        final = self.finish is not None
        if final:
            self._text.finish()
        text = self._text.release(final=final)
        self._emit(TokenEvent(self._stream, text, (logprob,)))

"""Draws the next token of every row of a batch, each by its own request's rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional

from mcts_core.attention.interface import VECTOR_ROWS
from mcts_core.models.logits import LogitsRow, together
from mcts_core.search.work import Sampling, TokenLogprob
from mcts_core.transfer import read_back, upload, upload_all

_NOTHING_LEFT = 1e-6
"""Probability mass below which there is no new option to be had; the old ones are allowed again."""

_COLDEST = 1e-5
"""Logits over a temperature below this may be more than a float holds."""


class Draw(NamedTuple):
    """What one row wants."""

    sampling: Sampling
    greedy: bool
    """Take the most likely token; always so at temperature 0."""
    noise: float
    """Uniform in [0, 1); see `engine.noise`."""
    factors: Mapping[int, float]
    """What to multiply token probabilities by; see `engine.siblings`."""
    history: Sequence[int]
    """The row's tokens so far; read only under a penalty."""
    prompt_length: int
    """How many of `history` are the prompt's: the presence and frequency penalties skip these."""
    allowed: Sequence[int] | None = None
    """The only tokens that there are, if not all; see `engine.actions`."""
    left: Sequence[int] | None = None
    """Those of them that may be drawn, whatever their probability."""


class Drawn(NamedTuple):
    """What one row got; None in its place when its logits are not finite, or are no more after bias
    and penalties."""

    logprob: TokenLogprob
    """Under the model's own distribution."""
    draw_logprob: float
    """Under the distribution at the row's temperature, siblings not taken out; at temperature 0,
    that at temperature 1."""


class Sampler(Protocol):
    """Draws for a whole batch; see `sample`."""

    def __call__(self, rows: Sequence[LogitsRow], draws: Sequence[Draw]) -> list[Drawn | None]: ...


def sample(rows: Sequence[LogitsRow], draws: Sequence[Draw]) -> list[Drawn | None]:
    """One token for each of `draws`, from its row of logits.

    Rows are drawn by inverting their cumulative distribution at their noise, row by row the same
    whatever the others are. The host waits for the device once, for what was drawn.
    """
    logits = together(rows).float()
    wanted = [
        *(draw.noise for draw in draws),
        *(temperature(draw.sampling) for draw in draws),
        *(float(draw.greedy) for draw in draws),
    ]
    noise, temperatures, greedy = upload(wanted, logits.device, torch.float64).view(3, -1)
    scaled = _edit(logits, draws) / temperatures.float()[:, None]
    own = Normalised(logits)
    _filter(scaled, draws)
    _restrict(scaled, draws)
    used = Normalised(scaled)
    available = _without_siblings(used.probabilities, draws)
    if any(draw.left is not None for draw in draws):
        available = _left(available, scaled, draws)
    cumulative = available.cumsum(dim=-1, dtype=torch.float64)
    at = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)
    drawn = at[:, 0].clamp_(max=logits.shape[1] - 1)
    chosen = torch.where(greedy > 0, available.argmax(dim=-1), drawn)[:, None]
    columns = [
        (own.finite & used.finite)[:, None].double(),
        chosen.double(),
        own.logprobs(chosen),
        used.logprobs(chosen),
    ]
    most = max((draw.sampling.logprobs for draw in draws), default=0)
    if most:
        columns.append(own.tops(most))
    return [
        Drawn(TokenLogprob(int(token), logprob, top_of(tops, draw.sampling.logprobs)), draw_logprob)
        if finite
        else None
        for (finite, token, logprob, draw_logprob, *tops), draw in zip(
            read_back(torch.cat(columns, dim=1)), draws, strict=True
        )
    ]


class Normalised:
    """Logits `[rows, vocabulary]` and their softmax, which torch computes row by row: a row's
    values are the same bits whatever the number of rows. (Its logarithm of a vector is not: values
    left over after the last full run of a vector register are rounded differently, so that the
    vector is padded to full runs.)"""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.probabilities = logits.softmax(dim=-1)
        self._peak, at = logits.max(dim=-1, keepdim=True)
        peaks = self.probabilities.gather(1, at)[:, 0].double()
        self.finite = peaks.isfinite()
        """[rows] bool"""
        peaks = functional.pad(
            torch.where(self.finite, peaks, 1.0), (0, -len(peaks) % VECTOR_ROWS), value=1.0
        )
        self._log_peak = peaks.log()[: len(logits), None]

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of `tokens` `[rows, n]`, in float64; exact also where the probability underflows."""
        return (self.logits.gather(1, tokens) - self._peak).double() + self._log_peak

    def tops(self, most: int) -> torch.Tensor:
        """The most likely tokens of each row, and then their logprobs: `[rows, 2 * n]` float64, n
        of `most` or the whole vocabulary; see `top_of`."""
        tokens = self.logits.topk(min(most, self.logits.shape[-1]), dim=-1).indices
        return torch.cat([tokens.double(), self.logprobs(tokens)], dim=1)


def top_of(tops: Sequence[float], count: int) -> tuple[tuple[int, float], ...]:
    """A row of `Normalised.tops` as (token, logprob), the first `count` of them."""
    half = len(tops) // 2
    pairs = zip(tops[:half], tops[half:], strict=True)
    return tuple((int(token), logprob) for token, logprob in pairs)[:count]


def edited(row: LogitsRow, draw: Draw) -> torch.Tensor:
    """The row `[vocabulary]` in float32 after bias and penalties."""
    return _edit(row.step[row.at].float()[None], [draw])[0]


def _edit(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Logits `[rows, vocabulary]` after bias and penalties, in the order of the OpenAI and vLLM
    samplers; the same tensor where there are none."""
    biases: dict[int, float] = {}
    repetitions: dict[int, float] = {}
    penalties: dict[int, float] = {}
    for row, draw in enumerate(draws):
        sampling, first = draw.sampling, row * logits.shape[1]
        for token, bias in sampling.logit_bias:
            biases[first + token] = bias
        if sampling.repetition_penalty != 1.0:
            for token in set(draw.history):
                repetitions[first + token] = sampling.repetition_penalty
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        if presence or frequency:
            for token, count in Counter(draw.history[draw.prompt_length :]).items():
                penalties[first + token] = presence + frequency * count
    if not (biases or repetitions or penalties):
        return logits
    after = logits.clone()
    flat = after.view(-1)
    if biases:
        at, bias_of = _placed(biases, logits)
        flat.index_copy_(0, at, flat[at] + bias_of)
    if repetitions:
        at, penalty = _placed(repetitions, logits)
        values = flat[at]
        flat.index_copy_(0, at, torch.where(values > 0, values / penalty, values * penalty))
    if penalties:
        at, penalty = _placed(penalties, logits)
        flat.index_copy_(0, at, flat[at] - penalty)
    return after


def _placed(values: Mapping[int, float], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices `[n]` int64, and what belongs there `[n]`, in the format of `like`."""
    at = upload(list(values), like.device)
    return at, upload(list(values.values()), like.device, like.dtype)


def temperature(sampling: Sampling) -> float:
    """What the logits are divided by; at 0 the distribution is that at 1, and its peak is taken."""
    wanted = sampling.temperature
    return max(wanted, _COLDEST) if wanted else 1.0


def _filter(scaled: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Top-k, top-p and min-p, in place; greedy rows keep their best token under any of them."""
    rows = [
        row
        for row, draw in enumerate(draws)
        if draw.allowed is None
        and (draw.sampling.top_k or draw.sampling.top_p < 1.0 or draw.sampling.min_p > 0.0)
    ]
    if not rows:
        return
    size, device = scaled.shape[1], scaled.device
    asked = [draws[row].sampling for row in rows]
    numbers = [
        *(float(sampling.top_k or size) for sampling in asked),
        *(sampling.top_p if sampling.top_p < 1.0 else inf for sampling in asked),
        *(sampling.min_p for sampling in asked),
    ]
    top_k, top_p, min_p = upload(numbers, device, torch.float64).view(3, -1, 1)
    at = upload(rows, device)
    values, order = scaled.index_select(0, at).sort(descending=True)
    probabilities = values.softmax(dim=-1)
    dropped = torch.arange(size, device=device) >= top_k.long()
    dropped |= probabilities.cumsum(dim=-1) - probabilities >= top_p.float()
    dropped |= probabilities < min_p.float() * probabilities[:, :1]
    dropped[:, 0] = False
    values.masked_fill_(dropped, float("-inf"))
    scaled.index_copy_(0, at, torch.empty_like(values).scatter_(1, order, values))


def _restrict(scaled: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Takes all but the allowed tokens out, in place."""
    size = scaled.shape[1]
    rows: list[int] = []
    allowed: list[int] = []
    for row, draw in enumerate(draws):
        if draw.allowed is not None:
            rows.append(row)
            allowed.extend(row * size + token for token in draw.allowed)
    if not rows:
        return
    at, tokens = upload_all([rows, allowed], scaled.device)
    flat = scaled.view(-1)
    kept = flat[tokens]
    scaled.index_fill_(0, at, float("-inf"))
    flat.index_copy_(0, tokens, kept)


def _left(probabilities: torch.Tensor, scaled: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The probabilities of the tokens that are left. Where those are too unlikely to be told from
    nothing, they are what there is."""
    available = probabilities.clone()
    left = {row: draw.left for row, draw in enumerate(draws) if draw.left is not None}
    for row, tokens in zip(left, upload_all(list(left.values()), scaled.device), strict=True):
        kept = available[row].index_select(0, tokens)
        alone = scaled[row].index_select(0, tokens).softmax(dim=-1)
        kept = torch.where(kept.sum() < _NOTHING_LEFT, alone, kept)
        available[row].zero_().index_copy_(0, tokens, kept)
    return available


def _without_siblings(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    size = probabilities.shape[1]
    factors = {
        row * size + token: factor
        for row, draw in enumerate(draws)
        for token, factor in draw.factors.items()
    }
    if not factors:
        return probabilities
    available = probabilities.clone()
    flat = available.view(-1)
    at, factor = _placed(factors, probabilities)
    flat.index_copy_(0, at, flat[at] * factor)
    empty = available.sum(dim=-1, keepdim=True) < _NOTHING_LEFT
    return torch.where(empty, probabilities, available)

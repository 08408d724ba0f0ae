"""Draws the next token of every row of a batch, each by its own request's rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mcts_core.search.work import Sampling, TokenLogprob

_NOTHING_LEFT = 1e-6
"""Probability mass below which there is no new option to be had; the old ones are allowed again."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row wants."""

    sampling: Sampling
    noise: float
    """Uniform in [0, 1); see `engine.noise`."""
    factors: Mapping[int, float]
    """What to multiply token probabilities by; see `engine.siblings`."""
    history: Sequence[int]
    """The row's tokens so far; read only under a penalty."""
    prompt_length: int
    """How many of `history` are the prompt's: the presence and frequency penalties skip these."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one row got; None in its place when its logits are not finite."""

    logprob: TokenLogprob
    """Under the model's own distribution."""
    draw_logprob: float
    """Under the distribution that was sampled from, siblings not taken out; for greedy rows that
    at temperature 1."""


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Drawn | None]:
    """One token for each row of `logits` `[rows, vocabulary]`.

    Rows are drawn by inverting their cumulative distribution at their noise, row by row the same
    whatever the others are.
    """
    logits = logits.float()
    normalisers = logits.logsumexp(dim=-1)
    scaled = _scale(logits, draws)
    _filter(scaled, draws)
    probabilities = scaled.softmax(dim=-1)
    available = _without_siblings(probabilities, draws)
    cumulative = available.cumsum(dim=-1, dtype=torch.float64)
    noise = torch.tensor([draw.noise for draw in draws], dtype=torch.float64, device=logits.device)
    at = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)
    drawn = at[:, 0].clamp_(max=logits.shape[1] - 1)
    greedy = torch.tensor([draw.sampling.temperature == 0 for draw in draws], device=logits.device)
    chosen = torch.where(greedy, available.argmax(dim=-1), drawn)
    own = logits.gather(1, chosen[:, None])[:, 0] - normalisers
    used = probabilities.gather(1, chosen[:, None])[:, 0].log()
    tokens, owns, useds = chosen.tolist(), own.tolist(), used.tolist()
    finite = torch.isfinite(normalisers).tolist()
    tops = _tops(logits, normalisers, draws)
    return [
        Drawn(TokenLogprob(tokens[row], owns[row], tops.get(row, ())), useds[row])
        if finite[row]
        else None
        for row in range(len(draws))
    ]


def _scale(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Bias, penalties and temperature, in the order of the OpenAI and vLLM samplers."""
    scaled = logits.clone()
    for row, draw in enumerate(draws):
        sampling = draw.sampling
        if sampling.logit_bias:
            tokens, bias = zip(*sampling.logit_bias, strict=True)
            scaled[row, list(tokens)] += torch.tensor(bias, device=logits.device)
        if sampling.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(draw.history)), device=logits.device)
            values = scaled[row, seen]
            penalty = sampling.repetition_penalty
            scaled[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            counts = Counter(draw.history[draw.prompt_length :])
            for token, count in counts.items():
                scaled[row, token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    temperatures = [draw.sampling.temperature or 1.0 for draw in draws]
    return scaled.div_(torch.tensor(temperatures, device=logits.device)[:, None])


def _filter(scaled: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Top-k, top-p and min-p, in place; greedy rows keep their best token under any of them."""
    rows = [
        row
        for row, draw in enumerate(draws)
        if draw.sampling.top_k or draw.sampling.top_p < 1.0 or draw.sampling.min_p > 0.0
    ]
    for row in rows:
        sampling = draws[row].sampling
        values, order = scaled[row].sort(descending=True)
        probabilities = values.softmax(dim=-1)
        dropped = torch.zeros_like(values, dtype=torch.bool)
        if sampling.top_k:
            dropped[sampling.top_k :] = True
        if sampling.top_p < 1.0:
            dropped |= probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
        if sampling.min_p > 0.0:
            dropped |= probabilities < sampling.min_p * probabilities[0]
        dropped[0] = False
        scaled[row, order[dropped]] = float("-inf")


def _without_siblings(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    rows: list[int] = []
    tokens: list[int] = []
    factors: list[float] = []
    for row, draw in enumerate(draws):
        for token, factor in draw.factors.items():
            rows.append(row)
            tokens.append(token)
            factors.append(factor)
    if not rows:
        return probabilities
    available = probabilities.clone()
    available[rows, tokens] *= torch.tensor(factors, device=probabilities.device)
    empty = available.sum(dim=-1, keepdim=True) < _NOTHING_LEFT
    return torch.where(empty, probabilities, available)


def _tops(
    logits: torch.Tensor, normalisers: torch.Tensor, draws: Sequence[Draw]
) -> dict[int, tuple[tuple[int, float], ...]]:
    """The most likely tokens of the rows that asked for them."""
    tops: dict[int, tuple[tuple[int, float], ...]] = {}
    for row, draw in enumerate(draws):
        if draw.sampling.logprobs:
            values, tokens = (logits[row] - normalisers[row]).topk(draw.sampling.logprobs)
            tops[row] = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return tops

"""One trunk for all: the policy and its critics trained together.

Heads on a finished policy read only what next-token prediction has left in its hidden states, and
that is little about numbers that were used up two lines before. Here the critics' losses reach the
trunk, while solutions keep the policy what it is (one network for policy and value: Silver et al.,
"Mastering the game of Go without human knowledge", 2017). A critic that is a head costs no tokens.
"""

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from critics.head import Head
from demo.batches import Encoder
from demo.corpus import Corpus
from demo.optimizer import Optimizers
from demo.plan import Plan
from demo.pool import Mixture
from demo.schedule import schedule
from demo.supply import supply
from demo.tokenizer import build_tokenizer
from demo.traces import Trace, padded
from demo.train_critics import first_step_weight
from demo.train_policy import Trunk, losses, trunk_of

_log = logging.getLogger(__name__)
Kind = Literal["value", "prm", "orm"]
_CHUNK = 32
"""Batches that are sorted by length together."""


@dataclass(frozen=True)
class Joint:
    """How policy and critics are trained together."""

    policy: Plan = field(
        default_factory=lambda: Plan(
            steps=4000,
            minutes=22.0,
            solutions=32,
            openings=64,
            walks=8,
            first_steps=16,
            muon_rate=5e-3,
            adam_rate=6e-4,
        )
    )
    """Solutions, labelled walks, and how long it takes."""
    rows: int = 160
    """Traces in a batch."""
    weights: Mapping[Kind, float] = field(
        default_factory=lambda: {"value": 0.5, "prm": 1.0, "orm": 1.0}
    )
    """Of the critics' losses; the next-token loss has 1."""


@dataclass(frozen=True)
class Reading:
    """Traces padded to one length. M counts read positions, which index [rows * length]."""

    ids: Tensor  # [rows, length] int64
    at: Tensor  # [M] int64
    labels: Tensor  # [M] float32, exact judgement
    won: Tensor  # [M] float32, the trace's grade
    depth: Tensor  # [M] int64, lines before the position; -1: finished


def readings(
    sources: Sequence[tuple[float, Sequence[Trace]]], rows: int, rng: random.Random
) -> Iterator[Reading]:
    """Batches without end: `sources` are shares and traces to be drawn from."""
    shares = [share for share, _ in sources]
    while True:
        drawn = rng.choices(range(len(sources)), shares, k=_CHUNK * rows)
        traces = [rng.choice(sources[at][1]) for at in drawn]
        made: list[Reading] = []
        for ids, at, chosen in padded(traces, rows):
            picked = [traces[index] for index in chosen]
            made.append(
                Reading(
                    ids,
                    at,
                    torch.tensor([float(label) for trace in picked for label in trace.labels]),
                    torch.tensor([float(trace.won) for trace in picked for _ in trace.ends]),
                    torch.tensor([depth for trace in picked for depth in trace.depth]),
                )
            )
        rng.shuffle(made)
        yield from made


def critics_losses(trunk: Trunk, heads: Mapping[Kind, Head], batch: Reading) -> dict[Kind, Tensor]:
    """Each critic's mean cross-entropy; the ORM is asked at ends only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
    hidden = hidden.flatten(0, 1)[batch.at]
    weights = first_step_weight(batch.depth)
    ends = batch.depth == -1
    asked: dict[Kind, tuple[Tensor, Tensor, Tensor]] = {
        "value": (hidden, batch.won, weights),
        "prm": (hidden, batch.labels, weights),
        "orm": (hidden[ends], batch.won[ends], weights[ends]),
    }
    return {
        kind: functional.binary_cross_entropy_with_logits(
            heads[kind].logits(states), labels, weight
        )
        for kind, (states, labels, weight) in asked.items()
    }


def train_jointly(
    model: LlamaForCausalLM,
    heads: Mapping[Kind, Head],
    sources: Sequence[tuple[float, Sequence[Trace]]],
    mixture: Mixture,
    seed: int,
    plan: Joint,
) -> int:
    """Train `model` and `heads` in place; returns the steps taken."""
    rng = random.Random(seed)
    reading = readings(sources, plan.rows, rng)
    stream = supply(Corpus(seed, mixture), Encoder(build_tokenizer()), plan.policy)
    parameters = [p for head in heads.values() for p in head.parameters()]
    optimizers = Optimizers(model, list(parameters), plan.policy)
    model.set_attn_implementation("eager")  # on a CPU, faster backward than the fused kernel
    model.train()
    trunk = trunk_of(model, plan.policy)
    started, step = time.monotonic(), 0
    while True:
        spent = (time.monotonic() - started) / 60
        progress = max(step / plan.policy.steps, spent / plan.policy.minutes)
        if progress >= 1:
            model.train(False)
            return step
        group = next(stream)
        targets = max(1, sum(len(batch.at) for batch in group))
        judged = max(1, sum(len(batch.judged_at) for batch in group))
        total = 0.0
        for batch in group:
            words, judge = losses(trunk, heads["prm"], batch, model.lm_head)
            torch.autograd.backward(words / targets + plan.policy.judge_weight * judge / judged)
            total += words.item() / targets
        own = critics_losses(trunk, heads, next(reading))
        torch.autograd.backward(
            torch.stack([plan.weights[kind] * loss for kind, loss in own.items()]).sum()
        )
        nn.utils.clip_grad_norm_([*model.parameters(), *parameters], 1.0)
        optimizers.step(schedule(progress))
        step += 1
        if step % 20 == 0:
            each = " ".join(f"{kind} {loss.item():.4f}" for kind, loss in own.items())
            _log.info("step %d %.0f%% lm %.4f %s", step, progress * 100, total, each)

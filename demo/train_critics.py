"""Training of the critics: heads on the policy's hidden states, and trunks of their own."""

import copy
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, LlamaModel

from critics.head import Head
from demo.optimizer import Muon
from demo.schedule import schedule
from demo.traces import Reads, Trace, padded

_log = logging.getLogger(__name__)

Label = Callable[[Trace], Sequence[tuple[int, float, float]]]
"""Of a trace: (read position, label, weight) for every position that is trained."""


@dataclass(frozen=True)
class HeadPlan:
    """How a head is fitted on stored hidden states."""

    width: int = 256
    epochs: int = 12
    rate: float = 1e-3
    batch: int = 2048
    decay: float = 0.05


@dataclass(frozen=True)
class TrunkPlan:
    """How a trunk of its own is fine-tuned; whichever of the two limits comes first ends it."""

    minutes: float = 6.0
    steps: int = 4000
    rows: int = 128
    rate: float = 3e-4
    muon_rate: float = 4e-3


def first_step_weight(depth: Tensor) -> Tensor:
    """Loss weights [M]: the first step 3, the second 1.5, all else 1; the ranking of first steps
    decides where a search goes."""
    return 1.0 + 2.0 * (depth == 1) + 0.5 * (depth == 2)


def fit_head(
    reads: Reads, labels: Tensor, seed: int, plan: HeadPlan, start: Head | None = None
) -> Head:
    """Fit an MLP head on stored hidden states against labels [M] in 0..1 (soft ones too)."""
    torch.manual_seed(seed)
    head = copy.deepcopy(start) if start else Head(reads.hidden.shape[-1], plan.width)
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=plan.rate, weight_decay=plan.decay)
    weights = first_step_weight(reads.depth)
    generator = torch.Generator().manual_seed(seed)
    total = max(1, plan.epochs * -(-len(labels) // plan.batch))
    done = 0
    for _ in range(plan.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in torch.split(order, plan.batch):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * schedule(done / total)
            scores = head.logits(reads.hidden[chosen])
            loss = functional.binary_cross_entropy_with_logits(
                scores, labels[chosen], weights[chosen]
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    head.train(False)
    return head


def prefix_of(model: LlamaForCausalLM, layers: int) -> LlamaModel:
    """A copy of the first `layers` layers of a model's trunk, with its embeddings and norm."""
    trunk: LlamaModel = copy.deepcopy(model.model)
    trunk.layers = nn.ModuleList(trunk.layers[:layers])
    trunk.config.num_hidden_layers = layers
    if getattr(trunk.config, "layer_types", None):
        trunk.config.layer_types = trunk.config.layer_types[:layers]
    return trunk


def steps_to_success(trace: Trace) -> list[tuple[int, float, float]]:
    """Value labels: the grade of the whole trace at each read position."""
    return _weighted(trace, [float(trace.won)] * len(trace.ends))


def steps_alive(trace: Trace) -> list[tuple[int, float, float]]:
    """Process-reward labels: the exact judgement at each read position."""
    return _weighted(trace, [float(label) for label in trace.labels])


def outcome(trace: Trace) -> list[tuple[int, float, float]]:
    """Outcome labels: the grade at the end; the judgements on the way weigh less, because they
    only teach the arithmetic."""
    found = steps_alive(trace)
    return [(at, label, 0.25) for at, label, _ in found[:-1]] + [(found[-1][0], trace.won, 1.0)]


def _weighted(trace: Trace, labels: Sequence[float]) -> list[tuple[int, float, float]]:
    weights = first_step_weight(torch.tensor(trace.depth)).tolist()
    return list(zip(trace.ends, labels, weights, strict=True))


def fine_tune(
    trunk: LlamaModel,
    head: Head,
    traces: Sequence[Trace],
    label: Label,
    seed: int,
    plan: TrunkPlan,
) -> int:
    """Train `trunk` and `head` in place on labelled traces; returns the steps taken."""
    matrices = [p for p in trunk.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in (*trunk.parameters(), *head.parameters()) if id(p) not in known]
    optimizers = (Muon(matrices, lr=plan.muon_rate), torch.optim.AdamW(rest, lr=plan.rate))
    peaks = (plan.muon_rate, plan.rate)
    rng = random.Random(seed)
    started, step = time.monotonic(), 0
    trunk.set_attn_implementation("eager")  # on a CPU, faster backward than the fused kernel
    trunk.train()
    head.train()
    while True:
        for ids, places, labels, weights in _epoch(traces, label, plan.rows, rng):
            spent = (time.monotonic() - started) / 60
            progress = max(step / plan.steps, spent / plan.minutes)
            if progress >= 1:
                trunk.train(False)
                head.train(False)
                return step
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state
            scores = head.logits(hidden.flatten(0, 1)[places])
            loss = functional.binary_cross_entropy_with_logits(scores, labels, weights)
            torch.autograd.backward(loss)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * schedule(progress)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % 50 == 0:
                _log.info("step %d %.0f%% loss %.4f", step, progress * 100, loss.item())


def _epoch(
    traces: Sequence[Trace], label: Label, rows: int, rng: random.Random
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    shuffled = rng.sample(list(traces), min(len(traces), 64 * rows))
    for ids, _, chosen in padded(shuffled, rows):
        length = ids.shape[1]
        triples = [
            (row * length + at, value, weight)
            for row, index in enumerate(chosen)
            for at, value, weight in label(shuffled[index])
        ]
        places, labels, weights = zip(*triples, strict=True)
        found.append((ids, torch.tensor(places), torch.tensor(labels), torch.tensor(weights)))
    rng.shuffle(found)
    return found

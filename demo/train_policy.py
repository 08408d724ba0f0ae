"""Training of the policy and, with the same code, of the rollout model.

Two losses share the trunk: next-token loss on solutions, its free choices spread over every step
that wins, and a process-reward loss on labelled walks, so that the policy's own hidden states
tell which states can still succeed.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from critics.head import Head, card_of, save_head
from demo.batches import Batch, Encoder
from demo.corpus import Corpus, Sample
from demo.optimizer import Muon
from demo.schedule import schedule
from demo.tokenizer import EOS_ID, PAD_ID, PADDED_VOCAB_SIZE, build_tokenizer, save_tokenizer

_log = logging.getLogger(__name__)
_FRACTION = re.compile(r"\d/\d")


@dataclass(frozen=True)
class Size:
    """The shape of a Llama model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int


POLICY = Size(hidden=192, layers=5, heads=6, kv_heads=3, inner=512)
ROLLOUT = Size(hidden=96, layers=2, heads=3, kv_heads=3, inner=256)


@dataclass(frozen=True)
class Plan:
    """How long and on what to train; whichever of `steps` and `minutes` is spent first ends it."""

    steps: int = 6000
    minutes: float = 48.0
    solutions: int = 56
    openings: int = 64
    walks: int = 20
    first_steps: int = 48
    dead_ends: int = 0
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    judge_weight: float = 0.5
    save_every_minutes: float = 10.0


def build_model(size: Size, seed: int) -> LlamaForCausalLM:
    """A freshly initialised Llama model, embeddings tied, float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=PADDED_VOCAB_SIZE,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.inner,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # on a CPU, faster backward than the fused kernel
    return model


class Source(Protocol):
    """Where training samples come from; `Corpus` is one."""

    def solution(self) -> Sample:
        """A right trajectory, for the next-token loss."""
        ...

    def walk(self) -> Sample:
        """A labelled trajectory, for the process-reward loss."""
        ...

    def first_step(self) -> Sample:
        """A labelled trajectory of one step."""
        ...

    def dead_end(self) -> Sample:
        """True steps that need not win, for both losses."""
        ...


class Optimizers:
    """Muon for the matrices of the layers, AdamW for all else; one shared schedule."""

    def __init__(self, trunk: nn.Module, others: list[Tensor], plan: Plan) -> None:
        matrices = [p for p in trunk.parameters() if p.ndim == 2 and p.shape[0] < 2000]
        rest = [p for p in trunk.parameters() if p.ndim != 2 or p.shape[0] >= 2000]
        self._both: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=plan.muon_rate),
            torch.optim.AdamW([*rest, *others], lr=plan.adam_rate, betas=(0.9, 0.98)),
        )
        self._rates = (plan.muon_rate, plan.adam_rate)

    def step(self, scale: float) -> None:
        """Apply the gradients with `scale` times the peak rates, and clear them."""
        for optimizer, rate in zip(self._both, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def batches(corpus: Source, encoder: Encoder, plan: Plan) -> Iterator[tuple[Batch, ...]]:
    """Per step: a batch of whole trajectories, one of openings (prompt and first step).

    Trajectories with fractions are longer; they wait until they fill a batch of their own."""
    waiting: list[Sample] = []
    makers = [corpus.solution] * plan.solutions + [corpus.walk] * plan.walks
    makers += [corpus.dead_end] * plan.dead_ends
    while True:
        rows: list[Sample] = []
        for make in makers:
            while _FRACTION.search((sample := make()).text):
                waiting.append(sample)
            rows.append(sample)
        openings = [corpus.solution().first(1) for _ in range(plan.openings)]
        openings += [corpus.first_step() for _ in range(plan.first_steps)]
        group = [encoder.encode(rows), encoder.encode(openings)]
        if len(waiting) >= len(makers):
            group.append(encoder.encode(waiting))
            waiting = []
        yield tuple(group)


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy against a few weighted targets a row, without dense target tensors."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        """logits [N, V], ids and shares [N, 4] -> the sum over the rows."""
        logs = torch.log_softmax(logits.float(), -1)
        ctx.save_for_backward(logs, ids, shares)
        return -(logs.gather(1, ids) * shares).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """softmax - target, scaled."""
        logs, ids, shares = ctx.saved_tensors
        slope = logs.exp_().scatter_add_(1, ids, -shares).mul_(grads[0])
        return slope.bfloat16(), None, None


def soft_cross_entropy(logits: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """Sum over N rows of the cross-entropy of logits [N, V] against targets ids [N, 4] with
    weights shares [N, 4]."""
    loss: Tensor = _SoftCrossEntropy.apply(logits, ids, shares)  # type: ignore[no-untyped-call]
    return loss


def losses(
    model: LlamaForCausalLM, head: Head, batch: Batch, logits_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Sums over a batch: next-token cross-entropy and process-reward cross-entropy (the first
    step's weighs twice)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        flat = hidden.flatten(0, 1)  # [rows * length, hidden]
        logits = logits_of(flat[batch.at])
    scores = head.logits(flat[batch.judged_at])
    judged = functional.binary_cross_entropy_with_logits(scores, batch.labels, reduction="none")
    judged = (judged * (1.0 + (batch.depth == 1))).sum()
    if not len(batch.at):
        return logits.sum() * 0.0, judged
    return soft_cross_entropy(logits, batch.target_ids, batch.target_shares), judged


def train(
    model: LlamaForCausalLM,
    head: Head,
    source: Source,
    plan: Plan,
    save: Callable[[str], None],
) -> int:
    """Train `model` and the process-reward `head` in place; returns the steps taken."""
    encoder = Encoder(build_tokenizer())
    stream = batches(source, encoder, plan)
    optimizers = Optimizers(model, list(head.parameters()), plan)
    started = saved = time.monotonic()
    step, tokens = 0, 0
    model.train()
    while True:
        now = time.monotonic()
        progress = max(step / plan.steps, (now - started) / 60 / plan.minutes)
        if progress >= 1:
            break
        group = next(stream)
        made = time.monotonic() - now
        targets = max(1, sum(len(batch.at) for batch in group))
        judged = max(1, sum(len(batch.judged_at) for batch in group))
        total_lm, total_judged = 0.0, 0.0
        for batch in group:
            lm, judge = losses(model, head, batch, model.lm_head)
            torch.autograd.backward(lm / targets + plan.judge_weight * judge / judged)
            total_lm += lm.item() / targets
            total_judged += judge.item() / judged
            tokens += batch.ids.numel()
        nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        optimizers.step(schedule(progress))
        step += 1
        if step % 20 == 0:
            rate = tokens / (time.monotonic() - started)
            text = "step %d %.0f%% lm %.4f judge %.4f tokens/s %.0f data %.0f ms of %.0f"
            spent = (time.monotonic() - now) * 1e3
            _log.info(text, step, progress * 100, total_lm, total_judged, rate, made * 1e3, spent)
        if time.monotonic() - saved > plan.save_every_minutes * 60:
            saved = time.monotonic()
            save(f"step{step}")
    return step


def save_policy(model: LlamaForCausalLM, folder: Path) -> None:
    """Write a complete checkpoint with tokenizer and generation settings."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=128
    )
    model.save_pretrained(folder)
    save_tokenizer(folder)


def train_policy(size: Size, out: Path, work: Path, seed: int, plan: Plan) -> int:
    """Train from nothing into `out`; early checkpoints and the process-reward heads that were
    trained along go to `work`. Returns the steps taken."""
    model, head = build_model(size, seed), Head(size.hidden, 256)

    def save(name: str) -> None:
        save_policy(model, work / name)
        save_head(head, card_of(head, "prm", "policy"), work / name / "prm")

    taken = train(model, head, Corpus(seed), plan, save)
    save_policy(model, out)
    save_head(head, card_of(head, "prm", "policy"), work / "prm")
    return taken

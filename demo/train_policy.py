"""Training of the policy and, with the same code, of the rollout model.

Two losses share the trunk: next-token loss on solutions, its free choices spread over every step
that wins, and a process-reward loss on labelled walks, so that the policy's own hidden states
tell which states can still succeed.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from critics.head import Head, card_of, save_head
from demo.batches import Batch, Encoder
from demo.corpus import Corpus
from demo.optimizer import Optimizers
from demo.plan import Plan
from demo.schedule import schedule
from demo.supply import Source, supply
from demo.tokenizer import EOS_ID, PAD_ID, PADDED_VOCAB_SIZE, build_tokenizer, save_tokenizer

_log = logging.getLogger(__name__)


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


Trunk = Callable[..., Any]
"""Runs a model's layers: ids -> an output with `last_hidden_state`."""


def trunk_of(model: LlamaForCausalLM, plan: Plan) -> Trunk:
    """The layers of `model`, for training: most of an uncompiled step goes into passing over
    memory between its small matrix products."""
    trunk: Trunk = torch.compile(model.model, dynamic=True) if plan.compiled else model.model
    return trunk


def losses(
    trunk: Trunk, head: Head, batch: Batch, logits_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Sums over a batch: next-token cross-entropy and process-reward cross-entropy (the first
    step's and its choice's weigh twice)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
        flat = hidden.flatten(0, 1)  # [rows * length, hidden]
        logits = logits_of(flat[batch.at])
    scores = head.logits(flat[batch.judged_at])
    judged = functional.binary_cross_entropy_with_logits(scores, batch.labels, reduction="none")
    first = (batch.depth == 1) | (batch.depth == -2)
    judged = (judged * (1.0 + first)).sum()
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
    stream, trunk = supply(source, Encoder(build_tokenizer()), plan), trunk_of(model, plan)
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
            lm, judge = losses(trunk, head, batch, model.lm_head)
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

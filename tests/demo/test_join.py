"""What would break: critics whose losses do not reach the trunk, or read the wrong positions."""

import dataclasses
import random

import torch

from critics.head import Head
from demo.corpus import Corpus
from demo.join import Joint, Kind, critics_losses, readings, train_jointly
from demo.plan import Plan
from demo.pool import Mixture
from demo.tokenizer import build_tokenizer
from demo.traces import Trace, trace_of_sample
from demo.train_policy import Size, build_model

SIZE = Size(hidden=32, layers=2, heads=2, kv_heads=1, inner=64)


def traces(count: int) -> list[Trace]:
    corpus, tokenizer = Corpus(3), build_tokenizer()
    return [trace_of_sample(corpus.near_miss(), tokenizer) for _ in range(count)]


def heads() -> dict[Kind, Head]:
    torch.manual_seed(1)
    return {"value": Head(32, 8), "prm": Head(32, 8), "orm": Head(32, 8)}


def test_batches_hold_every_read_position_in_the_shares_asked_for() -> None:
    few, many = (own := traces(8))[:2], own[2:]
    stream = readings([(0.25, few), (0.75, many)], 8, random.Random(0))
    wanted = {trace.ids: trace for trace in (*few, *many)}
    seen: list[Trace] = []
    for _ in range(32):
        batch = next(stream)
        length = batch.ids.shape[1]
        at = 0
        for number, row in enumerate(batch.ids.tolist()):
            trace = next(t for ids, t in wanted.items() if row[: len(ids)] == list(ids))
            seen.append(trace)
            count = len(trace.ends)
            places = (batch.at[at : at + count] - number * length).tolist()
            assert places == list(trace.ends)
            assert batch.labels[at : at + count].tolist() == list(trace.labels)
            assert set(batch.won[at : at + count].tolist()) == {trace.won}
            at += count
        assert at == len(batch.at)
    share = sum(trace in few for trace in seen) / len(seen)
    assert 0.15 < share < 0.35


def test_every_critic_s_loss_reaches_the_trunk_and_the_orm_reads_ends_only() -> None:
    model, own = build_model(SIZE, 0), heads()
    batch = next(readings([(1.0, traces(16))], 8, random.Random(0)))
    for kind, loss in critics_losses(model.model, own, batch).items():
        weights = [own[kind].up.weight, model.model.layers[0].mlp.up_proj.weight]
        for gradient in torch.autograd.grad(loss, weights, retain_graph=True):
            assert gradient.abs().sum() > 0
    before = critics_losses(model.model, own, batch)
    inner = batch.depth != -1
    flipped = dataclasses.replace(
        batch,
        labels=torch.where(inner, 1 - batch.labels, batch.labels),
        won=torch.where(inner, 1 - batch.won, batch.won),
    )
    after = critics_losses(model.model, own, flipped)
    assert torch.equal(before["orm"], after["orm"])
    assert not torch.equal(before["prm"], after["prm"])
    assert not torch.equal(before["value"], after["value"])


def test_training_together_teaches_the_critics() -> None:
    model, own, few = build_model(SIZE, 0), heads(), traces(12)
    batch = next(readings([(1.0, few)], 12, random.Random(1)))
    before = critics_losses(model.model, own, batch)
    rates = {"muon_rate": 1e-2, "adam_rate": 3e-3}
    plan = Plan(steps=40, solutions=2, openings=2, walks=2, first_steps=2, compiled=False, **rates)
    taken = train_jointly(model, own, [(1.0, few)], Mixture(), 0, Joint(plan, rows=12))
    after = critics_losses(model.model, own, batch)
    assert taken == 40
    assert all(after[kind] < before[kind] for kind in own)

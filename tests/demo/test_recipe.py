"""The whole recipe, with settings so small that only the plumbing is tested."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critics.head import load_head
from demo.join import Joint
from demo.load import load_model
from demo.measure import accuracy, auc, calibration_error
from demo.plan import Plan
from demo.recipe import Recipe, stages
from demo.rounds import ROUNDS, Round
from demo.settings import Settings
from demo.train_critics import HeadPlan
from demo.train_policy import Size

TINY_SIZE = Size(hidden=32, layers=2, heads=2, kv_heads=1, inner=32)
TINY_PLAN = Plan(
    steps=2, solutions=2, openings=2, walks=2, first_steps=2, dead_ends=2, compiled=False
)


def tiny_round(full: Round) -> Round:
    searches = full.searches and dataclasses.replace(full.searches, count=2)
    samples = full.samples and dataclasses.replace(full.samples, count=8)
    mined = full.mined and dataclasses.replace(full.mined, count=24, keep=8)
    plan, deepen = Joint(TINY_PLAN, rows=8), (0,) * bool(full.deepen)
    return dataclasses.replace(
        full, searches=searches, samples=samples, mined=mined, plan=plan, deepen=deepen
    )


TINY = Settings(
    policy=TINY_PLAN,
    refine=TINY_PLAN,
    widen=TINY_PLAN,
    own_first_steps=30,
    rollout=TINY_PLAN,
    policy_size=TINY_SIZE,
    rollout_size=TINY_SIZE,
    head=HeadPlan(width=8, epochs=1),
    rounds=tuple(map(tiny_round, ROUNDS)),
    early_lies=8,
    late_lies=6,
    drawn_lies=6,
    chance_ends=6,
    policy_traces=16,
    rollout_traces=8,
    walks=16,
    near_misses=16,
    held_out_samples=1,
    orm_samples=1,
    measured_puzzles=3,
)


def test_every_stage_runs_and_leaves_what_it_ships(tmp_path: Path) -> None:
    out = tmp_path / "checkpoints"
    for stage in stages(TINY):  # a new object each time: a stage needs only files
        Recipe(out, tmp_path / "work", 0, TINY).run(stage)
    for name in ("policy", "rollout"):
        model = AutoModelForCausalLM.from_pretrained(out / name)
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(out / name))
    policy = load_model(out / "policy")
    for kind in ("value", "prm", "orm"):
        head, card = load_head(out / kind)
        assert card.trunk == "policy"
        hidden = policy.model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
        assert head(hidden).shape == (1, 3)
    figures = json.loads((out / "figures.json").read_text())
    assert figures["training"]["policy"]["steps"] == 2
    assert "| policy |" in (out / "README.md").read_text()


def test_an_unknown_stage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no stage"):
        Recipe(tmp_path, tmp_path, 0, TINY).run("nothing")


def test_auc_counts_ties_half() -> None:
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert auc(torch.tensor([0.9, 0.1, 0.8, 0.2]), labels) == 1.0
    assert auc(torch.tensor([0.5, 0.5, 0.5, 0.5]), labels) == 0.5
    assert auc(torch.tensor([0.9, 0.9, 0.1, 0.2]), labels) == pytest.approx(0.375)
    assert auc(torch.ones(2), torch.ones(2)) != auc(torch.ones(2), torch.ones(2))


def test_calibration_error_is_the_mean_gap() -> None:
    scores = torch.tensor([0.8, 0.8, 0.8, 0.8])
    assert calibration_error(scores, torch.tensor([1.0, 1.0, 1.0, 0.0])) == pytest.approx(0.05)
    figures = accuracy(scores, torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 1, 1, 1]))
    assert figures.brier == pytest.approx(0.19)

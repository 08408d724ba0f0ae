"""What would break: critics that learn from held-out puzzles, or from what they know already."""

import math

import pytest
import torch

from critics.head import Head
from demo.hard import candidates, hardest
from demo.pool import Mixture
from demo.puzzle import is_held_out
from demo.tokenizer import build_tokenizer
from demo.train_policy import Size, build_model

TOKENIZER = build_tokenizer()


def test_candidates_are_right_and_wrong_and_of_training_puzzles() -> None:
    made = candidates(60, 3, Mixture(fractional=0.3), TOKENIZER)
    assert len(made) == 60
    assert 5 < sum(trace.won for trace in made) < 40
    assert not any(is_held_out(trace.puzzle.numbers) for trace in made)
    assert made == candidates(60, 3, Mixture(fractional=0.3), TOKENIZER)


@pytest.mark.parametrize("keep", [8, 100])
def test_the_hardest_are_those_of_the_greatest_loss_right_ones_and_wrong_ones(
    keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(Size(hidden=32, layers=2, heads=2, kv_heads=1, inner=32), 0)
    model.train(False)
    head = Head(32, 16)
    with torch.no_grad():
        head.down.weight.mul_(20)
    traces = candidates(40, 4, Mixture(), TOKENIZER)
    monkeypatch.setattr("demo.hard._AT_ONCE", 16)
    kept = hardest(model.model, head, traces, keep)
    losses = []
    for trace in traces:
        hidden = model.model(input_ids=torch.tensor([trace.ids])).last_hidden_state[0, -1]
        score = head(hidden).item()
        losses.append(-math.log(score if trace.won else 1 - score))
    expected = []
    for grade in (0, 1):
        of_grade = (loss for loss, trace in zip(losses, traces, strict=True) if trace.won == grade)
        expected += sorted(of_grade, reverse=True)[: keep // 2]
    assert [losses[traces.index(trace)] for trace in kept] == pytest.approx(expected, rel=1e-4)

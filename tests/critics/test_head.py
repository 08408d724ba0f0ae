"""What would break: a critic that scores otherwise than it was trained, or loads half."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from critics.card import CriticCard, CriticError
from critics.head import Head, card_of, load_head, save_head

CARD = CriticCard(
    kind="prm", trunk="policy", read="step_end", activation="sigmoid", hidden=6, width=4
)


def test_a_saved_head_scores_the_same_after_loading(tmp_path: Path) -> None:
    head = Head(6, 4)
    save_head(head, CARD, tmp_path)
    assert CriticCard.load(tmp_path) == CARD
    hidden = torch.randn(5, 6)
    loaded, card = load_head(tmp_path)
    assert card == CARD
    assert torch.equal(loaded(hidden), head(hidden))


def test_a_score_is_the_sigmoid_of_the_formula() -> None:
    head = Head(6, 4)
    hidden = torch.randn(3, 6)
    inner = hidden @ head.up.weight.T + head.up.bias
    expected = torch.sigmoid((inner * torch.sigmoid(inner)) @ head.down.weight[0] + head.down.bias)
    assert torch.allclose(head(hidden), expected, atol=1e-6)
    assert torch.equal(torch.sigmoid(head.logits(hidden)), head(hidden))


def test_a_heads_card_says_its_shape_and_where_it_is_read() -> None:
    assert card_of(Head(6, 4), "prm", "policy") == CARD
    assert card_of(Head(6, 4), "orm", "own").read == "last"


def test_only_an_outcome_critic_needs_a_finished_trajectory() -> None:
    assert CARD.scores_unfinished
    assert not CARD.model_copy(update={"kind": "orm"}).scores_unfinished


def test_missing_or_misfitting_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CriticError, match=r"critic\.json"):
        CriticCard.load(tmp_path)
    save_head(Head(6, 4), CARD, tmp_path)
    save_head(Head(6, 4), CARD.model_copy(update={"width": 5}), tmp_path)
    with pytest.raises(CriticError, match="does not fit"):
        load_head(tmp_path)
    save_head(Head(6, 4), CARD, tmp_path)
    weights = tmp_path / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(CriticError, match=r"head\.safetensors is not a whole safetensors file"):
        load_head(tmp_path)
    weights.unlink()
    with pytest.raises(CriticError, match=r"head\.safetensors"):
        load_head(tmp_path)
    (tmp_path / "critic.json").write_text('{"kind": "oracle"}')
    with pytest.raises(CriticError, match="kind"):
        CriticCard.load(tmp_path)

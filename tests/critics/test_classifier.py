"""What would break: a transformers classifier that scores otherwise here than in transformers, or
whose wrong label is taken for the score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from critics.card import CriticCard, CriticError
from critics.classifier import ClassifierHead
from critics.critic import Critic
from tests.mcts_core.models_zoo import CLASSIFIERS, LABELS, make

CARD: dict[str, Any] = {
    "kind": "prm",
    "trunk": "own",
    "head": "classifier",
    "read": "step_end",
    "activation": "softmax",
    "label": 1,
}


def write(folder: Path, family: str = "qwen2-token-classification", **fields: Any) -> Any:
    """A checkpoint with a card; returns the model."""
    model = make(family)
    model.save_pretrained(folder)
    card = {name: value for name, value in {**CARD, **fields}.items() if value is not None}
    (folder / "critic.json").write_text(json.dumps(card))
    return model


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "raw"])
def test_the_score_is_what_transformers_gives_for_the_label(
    tmp_path: Path, family: str, activation: str
) -> None:
    model = write(tmp_path, family, activation=activation, label="LABEL_2")
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        hidden = model.base_model(input_ids=tokens).last_hidden_state[0, -1]
        logits = model(input_ids=tokens).logits.reshape(-1, LABELS)[-1]
        found = Critic.load(tmp_path).head(hidden)
    expected = {
        "softmax": logits.softmax(-1)[2],
        "sigmoid": logits[2].sigmoid(),
        "raw": logits[2],
    }
    assert torch.allclose(found, expected[activation], atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "raw"])
def test_a_score_is_the_same_bits_whatever_else_is_scored(tmp_path: Path, activation: str) -> None:
    write(tmp_path, activation=activation)
    head = Critic.load(tmp_path).head
    with torch.inference_mode():
        hidden = torch.randn(128, 32)
        together = head(hidden)
        for count in (32, 64, 96):
            assert torch.equal(head(hidden[:count]), together[:count])


def test_weights_in_several_files_are_found(tmp_path: Path) -> None:
    model = write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    head = Critic.load(tmp_path).head
    assert isinstance(head, ClassifierHead)
    assert torch.equal(head.linear.weight, model.score.weight)
    assert torch.equal(head.linear.bias, model.score.bias)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": 3}, "no label 3; there are: LABEL_0, LABEL_1, LABEL_2"),
        ({"label": -1}, "no label -1"),
        ({"label": "good"}, "no label 'good'"),
        ({"label": None}, "which of the 3 labels"),
        ({"trunk": "policy"}, "trunk of its own"),
        ({"hidden": 32}, "belong to the head 'mlp'"),
        ({"activation": "tanh"}, "activation"),
        ({"head": "mlp", "activation": "sigmoid"}, "needs 'hidden' and 'width'"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    write(tmp_path, **fields)
    with pytest.raises(CriticError, match=message):
        Critic.load(tmp_path)


def test_a_softmax_over_one_label_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    model = make("qwen2-sequence-classification")
    model.score = torch.nn.Linear(32, 1, bias=False)
    model.config.num_labels = 1
    model.save_pretrained(tmp_path)
    with pytest.raises(CriticError, match="always 1"):
        Critic.load(tmp_path)
    card = {**CARD, "activation": "sigmoid"}
    del card["label"]
    (tmp_path / "critic.json").write_text(json.dumps(card))
    assert Critic.load(tmp_path).head.hidden == 32


def test_a_checkpoint_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path)
    (tmp_path / "critic.json").write_text(json.dumps(CARD))
    with pytest.raises(CriticError, match="Qwen2ForCausalLM"):
        Critic.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CriticError, match=r"config\.json is missing"):
        Critic.load(tmp_path)


def test_a_broken_weight_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CriticError, match=r"model\.safetensors is not a whole safetensors file"):
        Critic.load(tmp_path)
    weights.unlink()
    with pytest.raises(CriticError, match=r"model\.safetensors is missing"):
        Critic.load(tmp_path)


def test_a_cards_head_is_an_mlp_unless_it_says_otherwise() -> None:
    card = CriticCard.model_validate(
        {
            **{"kind": "orm", "trunk": "own", "read": "last", "activation": "sigmoid"},
            **{"hidden": 4, "width": 2},
        }
    )
    assert card.head == "mlp"

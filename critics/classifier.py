"""The head of a transformers classifier: one linear layer on its trunk's last hidden state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from critics.card import CriticCard, CriticError

_ARCHITECTURES = ("ForTokenClassification", "ForSequenceClassification")
_LAYERS = ("score", "classifier")
"""What transformers calls the linear layer; the second name in a few token classifiers."""


class ClassifierHead(nn.Module):
    """`activation(linear(hidden))` at one label. Computes in float32."""

    def __init__(self, linear: nn.Linear, label: int, card: CriticCard) -> None:
        super().__init__()
        self.linear = linear
        self._label = label
        self._activation = card.activation

    @property
    def hidden(self) -> int:
        """Width of the hidden state."""
        return self.linear.in_features

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[..., hidden]` after the trunk's final norm; returns `[..., labels]`."""
        logits: torch.Tensor = self.linear(hidden.float())
        return logits

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[..., hidden]`; returns scores `[...]`."""
        logits = self.logits(hidden)
        if self._activation == "softmax":
            return logits.softmax(-1)[..., self._label]
        score = logits[..., self._label].contiguous()
        return torch.sigmoid(score) if self._activation == "sigmoid" else score


def load_classifier(folder: Path, card: CriticCard) -> ClassifierHead:
    """The head of the classifier in `folder`. Raises `CriticError` when its files are missing or do
    not fit the card."""
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    if not any(name.endswith(_ARCHITECTURES) for name in architectures):
        raise CriticError(
            f"{folder / 'config.json'} is of {', '.join(architectures) or 'no architecture'}: the "
            f"head 'classifier' reads a checkpoint *{' or *'.join(_ARCHITECTURES)}"
        )
    tensors = _tensors(folder)
    weight, bias = tensors["weight"], tensors.get("bias")
    labels, hidden = weight.shape
    linear = nn.Linear(hidden, labels, bias=bias is not None)
    linear.load_state_dict({name: value.float() for name, value in tensors.items()})
    if card.activation == "softmax" and labels == 1:
        raise CriticError(
            f"{folder / 'critic.json'}: the softmax over a single label is always 1; use the "
            "activation 'sigmoid' or 'raw'"
        )
    return ClassifierHead(linear.eval(), _label(folder, card, config, labels), card)


def _label(folder: Path, card: CriticCard, config: dict[str, Any], labels: int) -> int:
    names = {str(name): int(key) for key, name in (config.get("id2label") or {}).items()}
    known = ", ".join(names) or f"0 to {labels - 1}"
    if card.label is None:
        if labels == 1:
            return 0
        raise CriticError(
            f"{folder / 'critic.json'}: say which of the {labels} labels is the score ('label'): "
            f"{known}"
        )
    index = names.get(card.label, -1) if isinstance(card.label, str) else card.label
    if not 0 <= index < labels:
        raise CriticError(
            f"{folder / 'critic.json'}: there is no label {card.label!r}; there are: {known}"
        )
    return index


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The linear layer's `weight` `[labels, hidden]` and, if it has one, `bias` `[labels]`."""
    index = folder / "model.safetensors.index.json"
    files = (
        sorted(set(_read_json(index).get("weight_map", {}).values()))
        if index.is_file()
        else ["model.safetensors"]
    )
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a mapping
                    layer, _, part = name.rpartition(".")
                    if layer in _LAYERS:
                        found[part] = tensors.get_tensor(name)
        except FileNotFoundError:
            raise CriticError(f"{folder / file} is missing") from None
        except SafetensorError as error:
            raise CriticError(f"{folder / file} is not a whole safetensors file: {error}") from None
    if not set(found) <= {"weight", "bias"} or "weight" not in found or found["weight"].dim() != 2:
        raise CriticError(
            f"{folder} holds no linear layer 'score' on its hidden states: the head 'classifier' "
            "cannot read this checkpoint"
        )
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CriticError(f"{path} is missing") from None
    except ValueError as error:
        raise CriticError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CriticError(f"{path} is not a JSON object")
    return content

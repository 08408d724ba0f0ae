"""The head of a critic: a small network on a model's last hidden state."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from critics.card import CriticCard, CriticError

FILE = "head.safetensors"


class Head(nn.Module):
    """`sigmoid(down(silu(up(hidden))))`: a probability for each state. Computes in float32."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, width)
        self.down = nn.Linear(width, 1)

    @property
    def hidden(self) -> int:
        """Width of the hidden state."""
        return self.up.in_features

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[..., hidden]` after the trunk's final norm; returns `[...]`."""
        inner = functional.silu(self.up(hidden.float()))
        return functional.linear(inner, self.down.weight, self.down.bias).squeeze(-1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden `[..., hidden]`; returns probabilities `[...]`."""
        return torch.sigmoid(self.logits(hidden))


def card_of(
    head: Head, kind: Literal["value", "prm", "orm"], trunk: Literal["policy", "own"]
) -> CriticCard:
    """What is to be said of a head that reads `trunk`."""
    return CriticCard(
        kind=kind,
        trunk=trunk,
        read="last" if kind == "orm" else "step_end",
        activation="sigmoid",
        hidden=head.up.in_features,
        width=head.up.out_features,
    )


def load_head(folder: Path) -> tuple[Head, CriticCard]:
    """An mlp critic's head and its card. Raises `CriticError` when files are missing, broken or do
    not fit."""
    card = CriticCard.load(folder)
    path = folder / FILE
    if card.hidden is None or card.width is None:
        raise CriticError(f"{folder / 'critic.json'}: its head is not the network in {FILE}")
    head = Head(card.hidden, card.width)
    try:
        head.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise CriticError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CriticError(f"{path} is not a whole safetensors file: {error}") from None
    except RuntimeError as error:
        raise CriticError(f"{path} does not fit critic.json: {error}") from None
    return head.eval(), card


def save_head(head: Head, card: CriticCard, folder: Path) -> None:
    """Writes the critic's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    said = card.model_dump_json(indent=2, exclude_defaults=True)
    (folder / "critic.json").write_text(said + "\n", encoding="utf-8")
    tensors = {
        name: value.detach().float().contiguous() for name, value in head.state_dict().items()
    }
    save_file(tensors, folder / FILE, metadata={"format": "pt"})

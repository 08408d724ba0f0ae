"""A critic as its folder describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from critics.card import CriticCard
from critics.classifier import ClassifierHead, load_classifier
from critics.head import Head, load_head


@dataclass(frozen=True, slots=True)
class Critic:
    """A head, and how it is fed and read."""

    head: Head | ClassifierHead
    card: CriticCard

    @classmethod
    def load(cls, folder: Path) -> Critic:
        """Raises `CriticError` when files are missing, broken or do not fit together."""
        card = CriticCard.load(folder)
        head = load_classifier(folder, card) if card.head == "classifier" else load_head(folder)[0]
        return cls(head, card)

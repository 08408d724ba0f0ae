"""What a critic's folder says of it: `critic.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class CriticError(ValueError):
    """A critic's files are missing or do not fit together; the message says which and how."""


class CriticCard(BaseModel):
    """How a critic is fed and read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["value", "prm", "orm"]
    """Expected return of the policy; each step: can it still succeed; finished: right or wrong."""
    trunk: Literal["policy", "own"]
    """Whose hidden states the head reads: the policy's, which are there already, or those of a
    model of its own in the same folder."""
    head: Literal["mlp", "classifier"] = "mlp"
    """`mlp`: the network in `head.safetensors`. `classifier`: the linear layer of the transformers
    `*ForTokenClassification` or `*ForSequenceClassification` checkpoint in the same folder."""
    read: Literal["step_end", "last"]
    """The token whose hidden state is read: the last of each step, or the last of a finished
    trajectory."""
    activation: Literal["sigmoid", "softmax", "raw"]
    """What makes the label's logit the score: its sigmoid, its share of the softmax over all
    labels, or nothing."""
    label: int | str | None = None
    """Of a classifier: the label whose logit is the score, by index or by its name in
    `config.json`. May be left out where there is one label only."""
    hidden: int | None = Field(default=None, ge=1)
    """Of an mlp: width of the hidden state."""
    width: int | None = Field(default=None, ge=1)
    """Of an mlp: width of the head's inner layer."""

    @model_validator(mode="after")
    def _fits_its_head(self) -> Self:
        if self.head == "mlp":
            if self.hidden is None or self.width is None:
                raise ValueError("head 'mlp' needs 'hidden' and 'width'")
            if self.activation != "sigmoid":
                raise ValueError("head 'mlp' has the activation 'sigmoid'")
            if self.label is not None:
                raise ValueError("'label' belongs to the head 'classifier'")
            return self
        if self.trunk != "own":
            raise ValueError("head 'classifier' reads a trunk of its own: set 'trunk' to 'own'")
        if self.hidden is not None or self.width is not None:
            raise ValueError("'hidden' and 'width' belong to the head 'mlp'")
        return self

    @property
    def scores_unfinished(self) -> bool:
        """Whether it can score a state that is not finished."""
        return self.kind != "orm"

    @classmethod
    def load(cls, folder: Path) -> CriticCard:
        """Raises `CriticError`."""
        path = folder / "critic.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise CriticError(f"{path} is missing: this folder holds no critic") from None
        except ValidationError as error:
            raise CriticError(f"{path} is not a critic's card: {error}") from None

"""What a critic's folder says of it: `critic.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError


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
    read: Literal["step_end", "last"]
    """The token whose hidden state is read: the last of each step, or the last of a finished
    trajectory."""
    activation: Literal["sigmoid"]
    hidden: int
    """Width of the hidden state."""
    width: int
    """Width of the head's inner layer."""

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

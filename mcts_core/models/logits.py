"""A row of logits, where the step that computed it has left it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mcts_core.transfer import upload


class LogitsRow(NamedTuple):
    """Of a step's logits the row of one sequence. (A tensor of its own for every row would cost
    more than drawing from it.)"""

    step: torch.Tensor
    """[rows, vocabulary]"""
    at: int

    @classmethod
    def alone(cls, logits: torch.Tensor) -> LogitsRow:
        """`logits` `[vocabulary]`."""
        return cls(logits[None], 0)

    def copy(self) -> torch.Tensor:
        """[vocabulary], which does not keep the step's others alive."""
        return self.step[self.at].clone()


def rows_of(step: torch.Tensor) -> list[LogitsRow]:
    """All rows of `step` `[rows, vocabulary]`."""
    return [LogitsRow(step, at) for at in range(len(step))]


def together(rows: Sequence[LogitsRow]) -> torch.Tensor:
    """[rows, vocabulary]: the step's own tensor, if these are its rows. It is not to be changed."""
    step, places = rows[0].step, [row.at for row in rows]
    if any(row.step is not step for row in rows):
        return torch.stack([row.step[row.at] for row in rows])
    if places == list(range(len(step))):
        return step
    return step.index_select(0, upload(places, step.device))

from __future__ import annotations

import re

import pytest

from mcts_core.search.boundary import SENTENCE, boundary
from mcts_core.search.parameters import Step, StepPattern
from mcts_core.search.work import Boundary


def test_every_step_has_its_boundary() -> None:
    assert boundary(Step()) == Boundary(("\n",))
    assert boundary(Step(until="paragraph", min_tokens=3)) == Boundary(("\n\n",), min_tokens=3)
    assert boundary(Step(until="token")) == Boundary(tokens=1)
    assert boundary(Step(until="sentence")) == Boundary(regex=SENTENCE)
    assert boundary(Step(until=StepPattern(tokens=7), min_tokens=9)) == Boundary(tokens=7)
    strings = StepPattern(strings=("ки\n", ";"))
    assert boundary(Step(until=strings)) == Boundary(("ки\n", ";"))
    assert boundary(Step(until=StepPattern(regex="a+"))) == Boundary(regex="a+")


@pytest.mark.parametrize("ended", ["It is so. ", 'He said "no!" ', "Really?\n", "a line\n", "好。"])
def test_a_sentence_ends_after_its_punctuation(ended: str) -> None:
    assert re.search(SENTENCE, ended)


@pytest.mark.parametrize("open_", ["It is so", "pi is 3.", "pi is 3.14", "well, "])
def test_a_sentence_does_not_end_inside_a_number(open_: str) -> None:
    assert not re.search(SENTENCE, open_)

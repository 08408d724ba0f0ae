"""Where an option ends, in the engine's words."""

from __future__ import annotations

from mcts_core.search.parameters import Step, StepPattern
from mcts_core.search.work import Boundary

SENTENCE = r"[.!?…][\"'”’)\]]*\s|[。！？]|\n"
"""A sentence ends with the white space after its punctuation, so that 3.14 is not cut."""

_STRINGS = {"newline": ("\n",), "paragraph": ("\n\n",)}


def boundary(step: Step) -> Boundary:
    """The boundary that `step` describes; its `limit` is the work's, not the boundary's."""
    until = step.until
    if step.tokens:
        return Boundary(tokens=step.tokens)
    if isinstance(until, StepPattern):
        return Boundary(until.strings or (), until.regex, min_tokens=step.min_tokens)
    if until == "sentence":
        return Boundary(regex=SENTENCE, min_tokens=step.min_tokens)
    return Boundary(_STRINGS[until], min_tokens=step.min_tokens)

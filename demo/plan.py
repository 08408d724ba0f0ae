"""How long and on what a policy is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long and on what to train; whichever of `steps` and `minutes` is spent first ends it."""

    steps: int = 6000
    minutes: float = 48.0
    solutions: int = 56
    openings: int = 64
    walks: int = 20
    first_steps: int = 48
    dead_ends: int = 0
    drills: int = 0
    """Samples of true steps, for what they come to."""
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    judge_weight: float = 0.5
    save_every_minutes: float = 10.0
    compiled: bool = True
    """Whether torch compiles the trunk: a minute or two at first, and then steps that take half the
    time."""
    twice: bool = False
    """Whether a step's samples are used for a second one, some hundred steps later: making them
    takes a third of the time that learning from them does."""

"""The size of every stage of the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from demo.plan import Plan
from demo.rounds import ROUNDS, Round
from demo.train_critics import HeadPlan
from demo.train_policy import POLICY, ROLLOUT, Size


@dataclass(frozen=True)
class Settings:
    """The size of every stage. When the shipped checkpoints were made, dead ends taught rounds 3
    and 4 nothing but results, no choice was judged before round 8, lies and dead ends that miss the
    target by a little came with round 10, round 11 kept from solutions what their last step comes
    to, only round 12 what any step comes to. From round 16 on, the steps that lead to dead ends and
    lies were drawn as drills are. In round 16 critics read nothing of a chance end
    before its lie, and drills were of puzzles' numbers; in round 17 most were of larger ones, and
    only in round 19 were they mostly sums with a fraction."""

    policy: Plan = field(default_factory=lambda: Plan(steps=4500, minutes=46.0))
    refine: Plan = field(
        default_factory=lambda: Plan(
            steps=800,
            minutes=8.5,
            solutions=40,
            openings=144,
            walks=12,
            first_steps=40,
            muon_rate=1e-2,
            adam_rate=1e-3,
        )
    )
    widen: Plan = field(
        default_factory=lambda: Plan(
            steps=5000,
            minutes=44.0,
            solutions=40,
            openings=128,
            walks=24,
            first_steps=32,
            muon_rate=1.5e-2,
            adam_rate=1.5e-3,
        )
    )
    own_first_steps: int = 12_000
    rollout: Plan = field(
        default_factory=lambda: Plan(
            steps=3000,
            minutes=3.0,
            solutions=64,
            openings=64,
            walks=0,
            first_steps=0,
            judge_weight=0.0,
        )
    )
    policy_size: Size = POLICY
    rollout_size: Size = ROLLOUT
    head: HeadPlan = field(default_factory=HeadPlan)
    rounds: tuple[Round, ...] = ROUNDS
    ships: Mapping[int, float] = field(default_factory=lambda: {20: 0.34, 21: 0.33, 22: 0.33})
    """Shares of the rounds' weights, whose mean is what ships."""
    early_lies: int = 36_000
    late_lies: int = 60_000
    drawn_lies: int = 32_000
    chance_ends: int = 60_000
    policy_traces: int = 16_000
    rollout_traces: int = 6_000
    walks: int = 10_000
    near_misses: int = 30_000
    held_out_samples: int = 10
    orm_samples: int = 20
    temperature: float = 0.9
    measured_puzzles: int = 1000

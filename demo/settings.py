"""The size of every stage of the recipe."""

from dataclasses import dataclass, field, replace

from demo.join import Joint
from demo.train_critics import HeadPlan
from demo.train_policy import POLICY, ROLLOUT, Plan, Size
from mcts_core.search.parameters import Budget, SearchParameters, Width


@dataclass(frozen=True)
class Settings:
    """The size of every stage; the defaults made the shipped checkpoints."""

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
    join: Joint = field(
        default_factory=lambda: Joint(replace(Joint().policy, solutions=24, openings=48))
    )
    join_again: Joint = field(default_factory=Joint)
    early_lies: int = 36_000
    policy_traces: int = 16_000
    rollout_traces: int = 6_000
    walks: int = 10_000
    near_misses: int = 30_000
    searches: int = 2_400
    searching: SearchParameters = field(
        default_factory=lambda: SearchParameters(
            budget=Budget(simulations=400, tokens=700),
            width=Width(root=(4, 40), inner=(2, 8), alpha=30.0),
            critics={"value": 1.0, "prm": 1.0, "orm": 1.0},
        )
    )
    """How trees are grown for the critics to learn from; without an early stop."""
    searches_again: int = 2_200
    searching_again: SearchParameters = field(
        default_factory=lambda: SearchParameters(
            budget=Budget(tokens=600),
            width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
            critics={"value": 1.0, "prm": 1.0, "orm": 4.0},
            process="min",
            parallel=1,
            temperature=1.0,
        )
    )
    """The same for critics that were trained together with the policy."""
    held_out_samples: int = 10
    orm_samples: int = 20
    temperature: float = 0.9
    measured_puzzles: int = 1000

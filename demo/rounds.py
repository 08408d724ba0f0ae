"""The rounds in which the policy and its critics are trained together, one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from demo.join import Joint
from demo.pool import Mixture
from mcts_core.search.parameters import (
    Budget,
    SearchParameters,
    Select,
    Step,
    StepPattern,
    Width,
)


@dataclass(frozen=True)
class Searches:
    """Trees for the critics to learn from, grown by what a round starts from."""

    seed: int
    """Of the puzzles; the recipe's is added."""
    count: int
    parameters: SearchParameters
    """How they are grown; without an early stop."""
    puzzles: Mixture
    """What is searched, half of it of the multisets that only critics train on."""


@dataclass(frozen=True)
class Samples:
    """Completions by the policy that a round starts from, for the critics to learn from: of far
    more puzzles than can be searched, and so of what a search sees first."""

    seed: int
    """Of the puzzles; the recipe's is added."""
    count: int
    temperature: float
    puzzles: Mixture
    """What is completed, half of it of the multisets that only critics train on."""


@dataclass(frozen=True)
class Mined:
    """Trajectories that fool the critics that a round starts from, or are doubted by them."""

    seed: int
    """Of the puzzles; the recipe's is added."""
    count: int
    """Made, beside the round's samples."""
    keep: int
    """Of all these."""
    puzzles: Mixture


@dataclass(frozen=True)
class Round:
    """The policy and its critics trained together, as a rule on searches with those there are."""

    plan: Joint
    solved: Mixture
    """The puzzles that the policy learns to solve."""
    shares: Mapping[str, float]
    """What the critics learn from: traces by name; those of round n's searches are `search_n`, of
    its samples `sample_n`, what was mined for it `hard_n`."""
    searches: Searches | None = None
    samples: Samples | None = None
    mined: Mined | None = None
    start: Mapping[int, float] = field(default_factory=dict)
    """Shares of earlier rounds' weights, whose mean it starts from; empty: the round before."""
    deepen: tuple[int, ...] = ()
    """Layers after which the policy gets one more before it is trained."""
    keep: float = 0.0
    """Share of the weights that it began with in those that it ends with (Wortsman et al., "Robust
    fine-tuning of zero-shot models", 2022)."""


_SOLVED = Mixture(three_numbers=0.05, target_24=0.6, wide=0.4)
_SEARCHED = Mixture(three_numbers=0.05, target_24=0.7, wide=0.2)
_ALWAYS = {"policy": 0.08, "rollout": 0.03, "walks": 0.07, "near": 0.12, "lies": 0.25}
_SEARCH = SearchParameters(
    budget=Budget(tokens=600),
    width=Width(rule="progressive", root=(4, 40), inner=(1, 8)),
    critics={"value": 1.0, "prm": 1.0, "orm": 4.0},
    process="min",
    parallel=1,
    temperature=1.0,
)
# The first two rounds are about 24. The others are about all targets: dead ends teach the policy to
# write true last lines, late lies teach the critics to tell false ones.
_ANY_SOLVED = Mixture(three_numbers=0.05, target_24=0.35, wide=0.3)
_ANY_SEARCHED = Mixture(three_numbers=0.05, target_24=0.2, wide=0.2)
_ANY_SEARCH = _SEARCH.model_copy(update={"budget": Budget(tokens=500)})
_ANY = replace(
    Joint().policy, minutes=11.0, solutions=28, openings=48, walks=4, first_steps=16, dead_ends=20
)
# Long rounds are ended by their steps.
_LONG = replace(_ANY, minutes=90.0, first_steps=12, dead_ends=16)
# The policy of the rounds from the seventh on has eight layers.
_DEEP = replace(
    _LONG,
    solutions=44,
    openings=52,
    walks=10,
    first_steps=32,
    dead_ends=14,
    muon_rate=5e-3,
    adam_rate=6e-4,
)
# From round 12 on it is dead ends alone that teach what steps come to.
_RESULTS = replace(
    _DEEP, solutions=32, openings=40, walks=8, first_steps=48, dead_ends=60, adam_rate=5e-4
)
_DEEP_SOLVED = Mixture(three_numbers=0.03, target_24=0.3, wide=0.25)
_DEEP_SHARES = {
    **{"policy": 0.02, "rollout": 0.02, "near": 0.05, "lies": 0.1, "late": 0.2},
    **{"search_2": 0.12, "search_3": 0.1, "search_4": 0.14, "search_5": 0.25},
}
_LAST_SHARES = {
    **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.06, "late": 0.31},
    **{"search_2": 0.05, "search_3": 0.03, "search_4": 0.06, "search_5": 0.12, "search_10": 0.33},
}
# What a line chooses (up to its `=`) and what it comes to are options of their own.
_CHOOSING = _SEARCH.model_copy(
    update={
        "budget": Budget(tokens=400),
        "step": Step(until=StepPattern(strings=("=", "\n"))),
        "select": Select(c=0.5),
        "process": "last",
    }
)
# Drills teach sums that solutions and dead ends seldom need.
_DRILLING = replace(_RESULTS, first_steps=36, dead_ends=40, twice=True)
_DRILLS_ALONE = replace(
    _DEEP,
    solutions=8,
    openings=12,
    walks=2,
    first_steps=8,
    dead_ends=8,
    drills=320,
    muon_rate=1e-2,
    adam_rate=1e-3,
)
_LATE_SHARES = {
    **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.03, "late": 0.07},
    **{"drawn": 0.05, "chance": 0.26, "search_13": 0.1, "sample_15": 0.08},
}
_LATE_SEARCHED = Mixture(three_numbers=0.03, target_24=0.2, wide=0.15, fractional=0.15)
# What searches still fail on.
_NARROW = Mixture(three_numbers=0.02, target_24=0.12, wide=0.2, fractional=0.06, narrow=0.45)
_NARROW_SHARES = {
    **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.03, "late": 0.06},
    **{"drawn": 0.05, "chance": 0.2, "hard_16": 0.04, "hard_20": 0.06, "hard_21": 0.1},
    "search_16": 0.04,
}
_ROUND_1 = SearchParameters(
    budget=Budget(simulations=400, tokens=700),
    width=Width(root=(4, 40), inner=(2, 8), alpha=30.0),
    critics={"value": 1.0, "prm": 1.0, "orm": 1.0},
)
ROUNDS = (
    Round(
        plan=Joint(replace(Joint().policy, solutions=24, openings=48)),
        solved=_SOLVED,
        shares={**_ALWAYS, "search_1": 0.45},
        searches=Searches(0, 2_400, _ROUND_1, _SEARCHED),
    ),
    Round(
        plan=Joint(),
        solved=_SOLVED,
        shares={**_ALWAYS, "search_1": 0.2, "search_2": 0.25},
        searches=Searches(70, 2_200, _SEARCH, _SEARCHED),
    ),
    Round(
        plan=Joint(_ANY),
        solved=_ANY_SOLVED,
        shares={
            **{"policy": 0.05, "rollout": 0.02, "walks": 0.03, "near": 0.07},
            **{"lies": 0.13, "late": 0.25, "search_1": 0.1, "search_2": 0.15, "search_3": 0.2},
        },
        searches=Searches(170, 2_000, _ANY_SEARCH, _ANY_SEARCHED),
    ),
    Round(
        plan=Joint(replace(_ANY, minutes=21.0, muon_rate=1e-2, adam_rate=1e-3)),
        solved=_ANY_SOLVED,
        shares={
            **{"policy": 0.04, "rollout": 0.02, "walks": 0.02, "near": 0.06, "lies": 0.12},
            **{"late": 0.18, "search_1": 0.06, "search_2": 0.12, "search_3": 0.12},
            "search_4": 0.26,
        },
        searches=Searches(270, 2_000, _ANY_SEARCH, _ANY_SEARCHED),
    ),
    Round(
        plan=Joint(
            replace(
                _LONG,
                steps=1_089,
                solutions=32,
                openings=40,
                dead_ends=28,
                muon_rate=1e-2,
                adam_rate=1e-3,
            ),
            rows=128,
        ),
        solved=Mixture(three_numbers=0.05, target_24=0.3, wide=0.3),
        shares={
            **{"policy": 0.02, "rollout": 0.02, "walks": 0.02, "near": 0.05, "lies": 0.1},
            **{"late": 0.25, "search_2": 0.1, "search_3": 0.08, "search_4": 0.16, "search_5": 0.2},
        },
        searches=Searches(470, 2_000, _ANY_SEARCH, _ANY_SEARCHED),
        start={2: 0.25, 3: 0.25, 4: 0.5},
    ),
    Round(
        plan=Joint(replace(_LONG, steps=653, solutions=44, openings=56), rows=128),
        solved=Mixture(three_numbers=0.05, target_24=0.4, wide=0.2),
        shares={
            **{"policy": 0.02, "rollout": 0.02, "near": 0.05, "lies": 0.12, "late": 0.2},
            **{"search_2": 0.14, "search_3": 0.08, "search_4": 0.14, "search_5": 0.23},
        },
        start={2: 0.125, 3: 0.125, 4: 0.25, 5: 0.5},
    ),
    Round(
        plan=Joint(
            replace(
                _DEEP,
                steps=1_532,
                solutions=48,
                openings=56,
                walks=12,
                first_steps=40,
                dead_ends=12,
                muon_rate=1.2e-2,
                adam_rate=1.2e-3,
            ),
            rows=96,
        ),
        solved=Mixture(three_numbers=0.03, target_24=0.25, wide=0.3),
        shares=_DEEP_SHARES,
        start={2: 0.05, 3: 0.05, 4: 0.1, 5: 0.2, 6: 0.6},
        deepen=(1, 2, 3),
        keep=0.5,
    ),
    Round(
        plan=Joint(replace(_DEEP, steps=1_538), rows=112), solved=_DEEP_SOLVED, shares=_DEEP_SHARES
    ),
    Round(
        plan=Joint(replace(_DEEP, steps=846, muon_rate=4e-3, adam_rate=5e-4), rows=112),
        solved=_DEEP_SOLVED,
        shares=_DEEP_SHARES,
    ),
    Round(
        plan=Joint(
            replace(
                _DEEP,
                steps=1_463,
                solutions=40,
                openings=48,
                walks=8,
                dead_ends=26,
                adam_rate=5e-4,
            ),
            rows=112,
        ),
        solved=_DEEP_SOLVED,
        shares=_LAST_SHARES,
        searches=Searches(
            570, 1_400, _CHOOSING, Mixture(three_numbers=0.03, target_24=0.2, wide=0.15)
        ),
        start={8: 0.35, 9: 0.65},
    ),
    Round(
        plan=Joint(
            replace(
                _DEEP,
                steps=932,
                solutions=36,
                openings=44,
                walks=8,
                first_steps=28,
                dead_ends=52,
                muon_rate=4e-3,
                adam_rate=4e-4,
            ),
            rows=104,
        ),
        solved=_DEEP_SOLVED,
        shares=_LAST_SHARES,
    ),
    Round(
        plan=Joint(
            replace(_RESULTS, steps=1_768, first_steps=28),
            rows=104,
        ),
        solved=_DEEP_SOLVED,
        shares={
            **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.05, "late": 0.18},
            **{"drawn": 0.21, "search_2": 0.04, "search_3": 0.03, "search_4": 0.04},
            **{"search_5": 0.09, "search_10": 0.16, "search_12": 0.16},
        },
        searches=Searches(
            670, 1_400, _CHOOSING, Mixture(three_numbers=0.03, target_24=0.2, wide=0.15)
        ),
        start={10: 0.35, 11: 0.65},
    ),
    Round(
        plan=Joint(
            replace(_RESULTS, steps=1_417),
            rows=112,
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.15),
        shares={
            **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.05, "late": 0.16},
            **{"drawn": 0.19, "search_13": 0.36, "sample_13": 0.2},
        },
        searches=Searches(
            770,
            2_300,
            _CHOOSING,
            Mixture(three_numbers=0.03, target_24=0.2, wide=0.15, fractional=0.13),
        ),
        samples=Samples(
            870,
            36_000,
            1.1,
            Mixture(three_numbers=0.03, target_24=0.2, wide=0.15, fractional=0.33),
        ),
        start={10: 0.1225, 11: 0.2275, 12: 0.65},
    ),
    Round(
        plan=Joint(
            replace(_RESULTS, steps=1_966, solutions=36),
            rows=112,
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.25),
        shares={
            **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.04, "late": 0.14},
            **{"drawn": 0.18, "search_13": 0.32, "sample_13": 0.1, "sample_14": 0.18},
        },
        samples=Samples(
            970,
            24_000,
            1.1,
            Mixture(three_numbers=0.03, target_24=0.2, wide=0.2, fractional=0.45),
        ),
        start={10: 0.06125, 11: 0.11375, 12: 0.325, 13: 0.5},
    ),
    Round(
        plan=Joint(
            replace(_RESULTS, steps=2_695, first_steps=36, twice=True),
            rows=144,
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.08),
        shares={
            **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.04, "late": 0.08},
            **{"drawn": 0.1, "hard_15": 0.32, "search_13": 0.26, "sample_15": 0.16},
        },
        samples=Samples(
            1070,
            30_000,
            1.1,
            Mixture(three_numbers=0.03, target_24=0.2, wide=0.15, fractional=0.3),
        ),
        mined=Mined(
            1170,
            100_000,
            20_000,
            Mixture(three_numbers=0.03, target_24=0.2, wide=0.15, fractional=0.25),
        ),
        start={10: 0.030625, 11: 0.056875, 12: 0.1625, 13: 0.25, 14: 0.5},
    ),
    Round(
        plan=Joint(replace(_DRILLING, steps=2_583, drills=96), rows=144),
        solved=replace(_DEEP_SOLVED, fractional=0.06),
        shares={**_LATE_SHARES, "hard_16": 0.18, "search_16": 0.2},
        searches=Searches(1370, 1_000, _CHOOSING, _LATE_SEARCHED),
        mined=Mined(1270, 100_000, 20_000, _LATE_SEARCHED),
        start={10: 0.0091875, 11: 0.0170625, 12: 0.04875, 13: 0.075, 15: 0.85},
    ),
    # Mostly drills: sums are learned here, and what critics and solutions lose by it is learned
    # again in the rounds after.
    Round(
        plan=Joint(replace(_DRILLS_ALONE, steps=1_131), rows=32),
        solved=replace(_DEEP_SOLVED, fractional=0.1),
        shares={**_LATE_SHARES, "hard_16": 0.2, "search_16": 0.16},
    ),
    Round(
        plan=Joint(
            replace(_DRILLS_ALONE, steps=669, dead_ends=12, drills=352, twice=True), rows=40
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.1),
        shares={**_LATE_SHARES, "hard_16": 0.2, "search_16": 0.16},
        start={16: 0.4, 17: 0.6},
    ),
    Round(
        plan=Joint(
            replace(_DRILLING, steps=2_375, drills=144, muon_rate=8e-3, adam_rate=7e-4), rows=144
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.06),
        shares={**_LATE_SHARES, "hard_16": 0.18, "search_16": 0.2},
    ),
    Round(
        plan=Joint(
            replace(
                _DRILLING,
                steps=2_196,
                solutions=40,
                openings=48,
                first_steps=40,
                dead_ends=48,
                drills=56,
            ),
            rows=160,
        ),
        solved=replace(_DEEP_SOLVED, fractional=0.06),
        shares={
            **{"policy": 0.01, "rollout": 0.01, "near": 0.02, "lies": 0.03, "late": 0.06},
            **{"drawn": 0.05, "chance": 0.22, "hard_16": 0.06, "hard_20": 0.14},
            **{"search_13": 0.04, "search_16": 0.08, "search_20": 0.2},
            **{"sample_15": 0.03, "sample_20": 0.05},
        },
        searches=Searches(1670, 3_000, _CHOOSING, _LATE_SEARCHED),
        samples=Samples(1470, 16_000, 1.1, replace(_LATE_SEARCHED, fractional=0.25)),
        mined=Mined(1570, 80_000, 20_000, _LATE_SEARCHED),
    ),
    Round(
        plan=Joint(
            replace(_DRILLING, steps=2_005, openings=80, first_steps=112, drills=24),
            rows=128,
        ),
        solved=_NARROW,
        shares={
            **_NARROW_SHARES,
            **{"search_20": 0.12, "search_21": 0.19, "sample_20": 0.02, "sample_21": 0.05},
        },
        searches=Searches(1970, 1_400, _CHOOSING, _NARROW),
        samples=Samples(1770, 10_000, 1.1, _NARROW),
        mined=Mined(1870, 60_000, 12_000, _NARROW),
    ),
    Round(
        plan=Joint(
            replace(
                _DRILLING,
                steps=1_462,
                solutions=36,
                openings=64,
                first_steps=88,
                dead_ends=48,
                drills=72,
            ),
            rows=128,
        ),
        solved=replace(_NARROW, target_24=0.35, fractional=0.08, narrow=0.35),
        shares={
            **_NARROW_SHARES,
            **{"search_20": 0.14, "search_21": 0.16, "sample_20": 0.03, "sample_21": 0.05},
        },
        start={20: 0.5, 21: 0.5},
    ),
)

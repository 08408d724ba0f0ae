"""The face of a search towards the engine, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mcts_core.search.work import Extended, Outcome, TokenLogprob, Work

StopReason = Literal[
    "simulations",
    "tokens",
    "deadline",
    "nodes",
    "exhausted",
    "converged",
    "score",
    "cancelled",
    "kv_exhausted",
    "critic_error",
]
"""Why the requested method stopped; "exhausted": it has nothing left to do. The last two say what
it could not go on without, and `Fallback` what was done then."""
FallbackReason = Literal["deadline", "kv_exhausted", "critic_error", "budget", "exhausted"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """How the ladder was taken."""

    to: str
    reason: FallbackReason
    at_simulation: int


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Options from the root to a terminal, or to where the search had to stop."""

    tokens: tuple[int, ...]
    """Completion token ids."""
    logprobs: tuple[TokenLogprob, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    score: float | None
    """The mixed score, doubts about claims included; None when no critic was asked."""
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RootOption:
    """One child of the root."""

    text: str
    visits: int
    value: float
    prior: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One node of the finished tree, as plain data."""

    id: int
    """In the order in which nodes were made; 0 is the root, the prompt itself."""
    parent: int | None
    depth: int
    text: str
    """Of the option that led here."""
    tokens: int
    """Length of that option."""
    visits: int
    value: float | None
    """Q, by `search.backup` of the values that came through here; None before the first."""
    prior: float
    """The policy's share of the option among its siblings."""
    certainty: float
    """The policy's, of the claims on the way here; it is a factor of `score`."""
    score: float | None
    """The mixed score; None when no critic scored this state."""
    scores: Mapping[str, float]
    end: Literal["stop", "length"] | None
    """"stop": a terminal. "length": cut by a limit. None: unfinished."""
    origin: str
    """The method or rung that drew the option."""
    merged: int
    """Further draws that were too much like this option, or led to this state."""
    solved: bool
    """Nothing is left to be done at or below this node."""
    pruned: bool
    """`commit` decided for another option."""
    time_ms: float
    """From the request's admission to when the node was made."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a finished search found."""

    trajectories: tuple[Trajectory, ...]
    """Best first, distinct; as many of the `n` that were asked for as were found (never none)."""
    method: str
    """The method that the returned trajectory came from."""
    requested_method: str
    stop_reason: StopReason
    fallback: Fallback | None
    readout: str
    simulations: int
    """Expansions that were evaluated and backed up, whatever the method."""
    nodes: int
    terminals: int
    depth: int
    merged: int
    """Draws that were too much like a sibling, or led to a state that was there."""
    first_simulation_seconds: float | None
    candidates: tuple[Trajectory, ...] = ()
    root: tuple[RootOption, ...] = ()
    tree: tuple[TreeNode, ...] | None = None
    """All nodes by their ids, parents before their children; None if it was not asked for."""
    details: Mapping[str, Any] | None = None
    """`critics_lost`: critics that failed for good, and of what."""


class SearchFailed(Exception):
    """The search has nothing to return: not even an unfinished trajectory.

    `reason` is one of `work.FailureReason`, or "deadline", or "budget".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is."""

    simulations: int
    score: float | None
    """Of the best finished trajectory so far; None before the first that was scored."""


class Search(Protocol):
    """One request's search. The engine drives it, always from the same thread.

    The search's decisions depend on the outcomes alone and not on the order in which they arrive,
    so that the same seed gives the same tree whatever else is in the batch.
    """

    def start(self) -> Sequence[Work]:
        """The first work."""

    def deliver(self, work: Work, outcome: Outcome) -> Sequence[Work]:
        """One outcome; returns what is to be done next (nothing when others are awaited)."""

    def expire(self, unfinished: Sequence[tuple[Work, Extended]]) -> None:
        """The deadline has passed: settle at once with what is there.

        `unfinished` is what was drawn so far of the options under way, neither scored nor to be
        continued.
        """

    def close(self) -> None:
        """Whatever it is at: nothing is asked of it any more but its `result`. What it has grown is
        freed at once, and not left to Python's collector of cycles."""

    @property
    def progress(self) -> Progress:
        """How far it is; cheap."""

    @property
    def result(self) -> SearchResult | SearchFailed | None:
        """None while the search goes on."""

"""What all methods have in common: opening, budgets, failures, the ladder and the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from mcts_core.search import readout, snapshot
from mcts_core.search.backup import backup
from mcts_core.search.budget import Meter
from mcts_core.search.commit import Commitment
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Flow, Steps, attempt
from mcts_core.search.ladder import Ladder
from mcts_core.search.outlook import Outlook
from mcts_core.search.parameters import Rung
from mcts_core.search.search import (
    FallbackReason,
    Progress,
    SearchFailed,
    SearchResult,
    StopReason,
    Trajectory,
)
from mcts_core.search.task import Task
from mcts_core.search.tree import End, Node, Tree
from mcts_core.search.votes import Poll
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import Extend, Extended, Failed, Option, Outcome, Work

_AT_ONCE: frozenset[StopReason] = frozenset(("score", "converged"))
"""Reasons to stop that leave no interest in what is still in flight."""


class TreeSearch(ABC):
    """Implements `Search`. A method says what to grow next (`propose`) and when to stop (`halt`).

    A search opens the prompt, grows, waits for what is in flight, goes down the ladder if that is
    needed, has what it returns scored by every critic asked for, and ends.
    """

    name: ClassVar[str]
    rungs: ClassVar[tuple[Rung, ...]] = ()
    """What the ladder below this method may hold."""
    step_scores: ClassVar[bool] = True
    """Whether the critics are asked about unfinished states."""
    whole: ClassVar[bool] = False
    """Whether its options are whole trajectories."""
    readouts: ClassVar[tuple[readout.Readout, ...]] = ("best", "vote")
    """Those that the method has; the first one where the request asks for another."""

    def __init__(self, task: Task, clock: Callable[[], float], started: float) -> None:
        """`clock` in seconds; `started` on it: the request's admission."""
        self._task = task
        self._outbox: list[Work] = []
        parameters = task.parameters
        longest = max(map(len, task.actions), default=parameters.step.limit)
        readings = task.reading_critics.intersection(parameters.critics) - task.outcome_critics
        if self.whole:
            longest, readings = task.max_tokens, frozenset()
        self._meter = Meter(parameters, clock, started, longest, task.max_tokens, len(readings))
        self._width = AdaptiveWidth(parameters.width, len(task.actions))
        self._outlook = outlook = Outlook(parameters, self._meter, task.max_tokens)
        self._evaluation = Evaluation(task, self._meter, outlook, self._outbox)
        self._expansion = Expansion(
            task, self._width, self._evaluation, self._meter, outlook, self._outbox
        )
        self._poll = Poll(self._evaluation)
        self._ladder = Ladder(
            parameters,
            task.max_tokens,
            self._expansion,
            self._evaluation,
            self._meter,
            outlook,
        )
        self._commitment: Commitment | None = None
        if parameters.commits(task.n):
            self._commitment = Commitment(
                self.readout,
                self._evaluation,
                self._meter,
                outlook,
                self._outbox,
                stream=task.stream,
                stop=task.stop,
            )
        self._flow = Flow(self._next, self._meter.commit, self._failed, self._outbox)
        self._places = 1
        """Generators that can be begun now."""
        self._full = 0
        """How many are in flight if no other can have a place until one of them goes on."""
        self._stage: Literal["new", "growing", "finishing"] = "new"
        self._tree: Tree | None = None
        self._chosen: list[Node] | None = None
        self._stop: StopReason | None = None
        self._failure: Failed | None = None
        self._result: SearchResult | SearchFailed | None = None

    @abstractmethod
    def propose(self, tree: Tree) -> Steps[None] | None:
        """The next thing to grow; None when there is nothing just now, or nothing more."""

    @property
    def parallel(self) -> int:
        """Most generators in flight."""
        most = self._task.parameters.parallel
        if self._tree is None or self.hurried:
            return 1
        return self._outlook.abreast(self._tree, most)

    @property
    def hurried(self) -> bool:
        """Whether the time left may just suffice to finish one trajectory, and none is yet."""
        return self._tree is not None and self._outlook.hurried(self._tree)

    def halt(self, tree: Tree, in_flight: int) -> StopReason | None:
        """Why nothing more should be begun, if so."""
        return self._meter.exhausted(tree, 1, in_flight)

    def due(self, tree: Tree) -> Node | None:
        """The step that is to be committed before anything more is begun."""
        return self._commitment.due(tree) if self._commitment is not None else None

    def committed(self) -> None:  # noqa: B027
        """A step was committed: what was pruned is not to be grown."""

    def good_enough(self, tree: Tree) -> bool:
        """Whether a terminal has the mixed score of `stop_when.score`, and there are as many
        terminals as are to be returned."""
        enough = self._task.parameters.stop_when.score
        best = tree.best.score if tree.best is not None else None
        if enough is None or best is None or best < enough:
            return False
        return len(tree.terminals) >= self._task.n

    def choose(self, tree: Tree) -> list[Node]:
        """The ends of the trajectories to be returned, best first."""
        return readout.choose(tree, self.readout, self._task.n, self._evaluation, self._poll)

    def start(self) -> Sequence[Work]:
        return self._flow.start()

    def deliver(self, work: Work, outcome: Outcome) -> Sequence[Work]:
        """Raises ValueError for work that was not asked for."""
        if self._result is not None:
            return ()
        return self._flow.deliver(work, outcome)

    def expire(self, unfinished: Sequence[tuple[Work, Extended]]) -> None:
        if self._result is not None:
            return
        self._stop = "deadline"
        self._flow.take_arrived()
        if self._tree is not None and self.wants_rest(self._tree):
            for work, extended in unfinished:
                if isinstance(work, Extend):
                    self.cut(self._tree, work, extended)
        self._settle()

    def wants_rest(self, tree: Tree) -> bool:
        """Whether the deadline leaves anything to be asked of options that are not finished."""
        return not tree.finished

    def cut(self, tree: Tree, work: Extend, extended: Extended) -> None:
        """Options that the deadline found under way become ends, those unfinished that are not at
        theirs."""
        parent = next((node for node in tree.walk() if node.state is work.state), None)
        if parent is not None:
            for option in extended.options:
                tree.add(parent, option, cut_end(option), self.name)

    @property
    def progress(self) -> Progress:
        best = self._tree.best if self._tree is not None else None
        return Progress(self._meter.simulations, best.score if best is not None else None)

    @property
    def result(self) -> SearchResult | SearchFailed | None:
        return self._result

    def close(self) -> None:
        self._flow.close()
        if self._tree is not None:
            self._tree.dissolve()
        self._tree = self._chosen = None

    def _next(self, in_flight: int) -> Steps[None] | None:
        """What `Flow` begins next."""
        full, self._full = self._full, 0
        if self._result is not None or (full and full == in_flight):
            return None
        if self._stage == "new":
            if in_flight:
                return None
            if self._tree is None and self._failure is None:
                return self._open()
            self._stage = "growing"
        tree = self._tree
        if tree is None or self._stage == "finishing":
            if not in_flight:
                self._settle()
            return None
        while (stop := self._reason(tree, in_flight)) is None:
            step = self.due(tree)
            if step is None or self._commitment is None:
                break
            if in_flight:
                return None  # what is in flight may still change the choice
            self._commitment.take(tree, step)
            self.committed()
        if stop is None:
            self._places = self.parallel - in_flight
            if self._places <= 0:
                return None
            steps = self.propose(tree)
            if steps is not None:
                self._full = in_flight + 1 if self._places == 1 else 0
                return steps
            if in_flight:
                return None
            stop = "exhausted"
        at_once = stop in _AT_ONCE and in_flight and self._all_scored(tree)
        if at_once or (stop == "deadline" and tree.finished):
            self._stop = stop
            self._settle()
            return None
        if in_flight:
            return None  # what is in flight is paid for, and may be what was missing
        self._stop = stop
        self._stage = "finishing"
        return self._finish(tree, stop)

    def _all_scored(self, tree: Tree) -> bool:
        """Whether what would be returned now waits for no critic."""
        return not any(map(self._evaluation.missing, self.choose(tree)))

    def _reason(self, tree: Tree, in_flight: int) -> StopReason | None:
        if self._failure is not None:
            return "kv_exhausted"
        return self.halt(tree, in_flight)

    def _open(self) -> Steps[None]:
        began = self._meter.now()
        opened = yield from self._evaluation.open(self._task.prompt, critics=self.step_scores)
        self._meter.timed(began, 1)
        tree = Tree(
            opened.state,
            self.name,
            self._task.parameters.backup,
            exact_priors=bool(self._task.actions),
            elapsed=self._meter.elapsed,
        )
        if self.step_scores:
            steps = self._evaluation.evaluate(tree, tree.root, opened.scores)
            if steps is not None:
                yield from steps
            value = self._evaluation.value(tree, tree.root)
            if value is not None:
                backup(tree, (tree.root,), value)
        self._tree = tree

    def _first_visit(self, tree: Tree, child: Node) -> float | None:
        """Backs a new child's own value up into itself alone."""
        value = self._evaluation.value(tree, child)
        if value is not None:
            backup(tree, (child,), value)
        return value

    def _failed(self, failed: Failed) -> None:
        """A generator ended in a failure that was not a single node's: the KV pool is full."""
        if self._failure is None:
            self._failure = failed

    def _finish(self, tree: Tree, stop: StopReason) -> Steps[None]:
        """The ladder, if it is needed; then the critics' last word on what is to be returned."""
        cannot_go_on = stop in ("kv_exhausted", "critic_error")
        if cannot_go_on or not tree.terminals:
            allowed = [rung for rung in self._task.parameters.fallback if rung in self.rungs]
            yield from self._ladder.descend(tree, _fallback_reason(stop), allowed, self.good_enough)
        chosen = self.choose(tree)
        unscored = [node for node in chosen if self._evaluation.missing(node)]
        if unscored:
            kept = set(unscored)
            for node in tree.walk():
                if node not in kept:
                    self._evaluation.release(node)
            for node in unscored:
                yield from attempt(self._evaluation.complete(node))
                self._evaluation.note(tree, node)
            again = self.choose(tree)  # an end may have lost its lead to one with fewer scores
            if any(node not in chosen and self._evaluation.missing(node) for node in again):
                again = sorted(chosen, key=self._evaluation.rank, reverse=True)
            self._chosen = again

    def _settle(self) -> None:
        """Sets the result from what is there, and drops whatever is in flight."""
        self._result = self._read_out()
        self._flow.close()

    def _read_out(self) -> SearchResult | SearchFailed:
        tree = self._tree
        chosen = self._chosen or (self.choose(tree) if tree is not None else [])
        if tree is None or not chosen:
            failure = self._failure or self._expansion.failure
            if failure is None and self._stop in ("tokens", "nodes"):
                field = f"'search.budget.{self._stop}'"
                message = f"{field} leaves nothing for a completion: raise it, or allow a fallback"
                return SearchFailed("budget", message)
            if self._stop == "deadline" or failure is None:
                return SearchFailed("deadline", "the deadline passed before there was any option")
            return SearchFailed(failure.reason, failure.message)
        assert self._stop is not None
        include = self._task.parameters.include
        return SearchResult(
            trajectories=tuple(map(snapshot.trajectory, chosen)),
            method=chosen[0].origin,
            requested_method=self.name,
            stop_reason=self._stop,
            fallback=self._ladder.fallback,
            readout=self.readout,
            simulations=self._meter.simulations,
            nodes=tree.nodes,
            terminals=len(tree.terminals) + sum(node.end == "stop" for node in tree.pruned),
            depth=tree.depth,
            merged=tree.merged,
            first_simulation_seconds=self._meter.first_seconds,
            candidates=self._candidates(tree) if "candidates" in include else (),
            root=tuple(map(snapshot.root_option, tree.root.children)) if "root" in include else (),
            tree=snapshot.tree_nodes(tree) if "tree" in include else None,
            details=self._details(),
        )

    def _candidates(self, tree: Tree) -> tuple[Trajectory, ...]:
        """Every scored terminal, best first. (An early stop may leave one behind that was still
        waiting for its critics.)"""
        order: readout.Readout = "vote" if self.readout == "vote" else "best"
        found = readout.terminals(tree, order, self._evaluation, self._poll)
        return tuple(
            snapshot.trajectory(node) for node in found if not self._evaluation.missing(node)
        )

    @property
    def readout(self) -> readout.Readout:
        """The readout that is in force."""
        asked = self._task.parameters.readout
        return asked if asked in self.readouts else self.readouts[0]

    def _details(self) -> dict[str, Any] | None:
        lost = self._evaluation.lost
        return {"critics_lost": dict(lost)} if lost else None


def cut_end(option: Option) -> End:
    """How an option ends that the deadline found under way."""
    return "stop" if option.finish in ("eos", "stop") else "length"


def _fallback_reason(stop: StopReason) -> FallbackReason:
    match stop:
        case "kv_exhausted" | "critic_error" | "deadline" | "exhausted":
            return stop
        case _:
            return "budget"

"""Evaluation: what the critics say of a node, and the one value that it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf, isfinite, isinf

from mcts_core.search.budget import Meter
from mcts_core.search.claims import Claims
from mcts_core.search.flow import Steps, WorkFailed
from mcts_core.search.outlook import Outlook
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree
from mcts_core.search.work import (
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Option,
    Release,
    RolledOut,
    Rollout,
    Score,
    Scored,
    State,
    Work,
)

_NO_CRITICS_FAULT = frozenset(("kv_exhausted", "context_length"))
"""Failures of work that would be the same without the critics."""


class Evaluation:
    """Asks the critics of the request, and mixes their scores.

    The mixed score is the weighted mean over those critics that scored the node: `sum w_i s_i /
    sum w_i`, so that it stays within their range wherever some of them have nothing to say
    (AlphaLLM, arXiv 2404.12253, sums instead). Critics of unfinished states come with
    the option; critics of outcomes are asked at ends, and elsewhere scored by the mean over
    rollouts.

    A critic that fails is asked again alone; when it fails again, or answers with something that
    is not a number, it is lost: the search goes on without it and says so.

    What critics say of a trajectory takes what its steps claim to be true: a positive score is
    multiplied by the policy's certainty of that (`Claims`).
    """

    __slots__ = (
        "_actions_to_end",
        "_asked",
        "_claims",
        "_max_tokens",
        "_meter",
        "_outbox",
        "_outcome_critics",
        "_outlook",
        "_process_critics",
        "_prompt_length",
        "_reading_critics",
        "_rollout_sampling",
        "_rollouts",
        "_stop",
        "_weights",
        "lost",
        "outcome_critics",
        "rollouts",
        "step_critics",
    )

    def __init__(self, task: Task, meter: Meter, outlook: Outlook, outbox: list[Work]) -> None:
        parameters = task.parameters
        self._meter = meter
        self._outlook = outlook
        self._prompt_length = len(task.prompt)
        self._reading_critics = task.reading_critics
        self._actions_to_end = task.actions_to_end
        self._asked = tuple(parameters.critics)
        self._weights = tuple((name, w) for name, w in parameters.critics.items() if w > 0)
        self._claims = Claims(parameters.claims)
        self._outcome_critics = task.outcome_critics
        self._process_critics: tuple[str, ...] = ()
        if parameters.process == "min":
            self._process_critics = tuple(
                n for n in parameters.critics if n in task.process_critics
            )
        self._max_tokens = task.max_tokens
        self._stop = task.stop
        self._rollouts = parameters.rollouts
        self._rollout_sampling = replace(
            task.sampling,
            temperature=parameters.rollouts.temperature,
            min_p=parameters.min_p,
            logprobs=0,
        )
        self._outbox = outbox
        self.rollouts = task.rollouts_available and parameters.rollouts.count > 0
        """Whether new nodes get rollouts; they are the first thing to go when room is short."""
        self.lost: dict[str, str] = {}
        """Critics that failed for good, and what they failed of."""
        self.step_critics = tuple(n for n in self._asked if n not in task.outcome_critics)
        """To be asked about every state."""
        self.outcome_critics = tuple(n for n in self._asked if n in task.outcome_critics)
        """To be asked about ends only."""

    @property
    def blind(self) -> bool:
        """Whether no critic has a say: likelihood under the policy takes the place of a score."""
        return not self._weights

    @property
    def sighted(self) -> bool:
        """Whether something can be said of unfinished states."""
        return any(
            name not in self.lost and (self.rollouts or name not in self._outcome_critics)
            for name, _ in self._weights
        )

    def missing(self, node: Node) -> tuple[str, ...]:
        """The critics that have yet to score `node`."""
        return tuple(n for n in self._asked if n not in node.scores and n not in self.lost)

    def mix(self, scores: Mapping[str, float]) -> float | None:
        """The mixed score; None when no critic with a weight scored."""
        total = weight = 0.0
        for name, own in self._weights:
            score = scores.get(name)
            if score is not None:
                total += own * score
                weight += own
        return total / weight if weight else None

    def rank(self, node: Node) -> tuple[bool, float, float]:
        """Sorts nodes, best last: scored ones by score, then by likelihood."""
        scored = node.score is not None
        return scored, node.score if node.score is not None else 0.0, node.trajectory_likelihood

    def value(self, tree: Tree, node: Node) -> float | None:
        """What `node` is worth by itself; None when nothing is known before a terminal is reached.

        A terminal that no critic was to score is worth its likelihood under the policy. An
        unfinished end is worth no more than the worst that the tree has seen.
        """
        if node.end is None:
            return node.score
        if node.end == "stop":
            if node.score is not None:
                return node.score
            if self.blind:
                return node.trajectory_likelihood
        worst = 0.0 if isinf(tree.low) else tree.low
        return worst if node.score is None else min(worst, node.score)

    def open(self, prompt: tuple[int, ...], *, critics: bool) -> Steps[Opened]:
        """The root's state."""
        work = Open(prompt, self.step_critics if critics else ())
        (outcome,) = yield (work,)
        if isinstance(outcome, Failed) and work.critics and outcome.reason not in _NO_CRITICS_FAULT:
            (outcome,) = yield (Open(prompt),)
            if isinstance(outcome, Opened):
                scores = yield from self.score(outcome.state, work.critics)
                outcome = replace(outcome, scores=scores)
        if isinstance(outcome, Failed):
            raise WorkFailed(outcome)
        if not isinstance(outcome, Opened):
            raise TypeError(f"{type(work).__name__} was answered by {type(outcome).__name__}")
        return outcome

    def extend(self, node: Node, work: Extend) -> Steps[tuple[Option, ...]]:
        """Options below `node` and their scores. Raises `WorkFailed`, but never because of a
        critic: what fails with critics is drawn again without them, and they are asked afterwards,
        as far as the budget has room for their reading."""
        self._meter.reserve_options(work)
        (outcome,) = yield (work,)
        if isinstance(outcome, Failed) and work.critics and outcome.reason not in _NO_CRITICS_FAULT:
            unscored = replace(work, critics=())
            self._meter.reserve_options(unscored)
            (outcome,) = yield (unscored,)
            if isinstance(outcome, Extended):
                scored: list[Option] = []
                before = self._unread(node, work.critics)
                for option in outcome.options:
                    cost = before + len(option.tokens) * self._readings(work.critics)
                    if cost <= self._meter.room:
                        scores = yield from self.score(option.state, work.critics, cost)
                        option = replace(option, scores=scores)
                    scored.append(option)
                outcome = replace(outcome, options=tuple(scored))
        if isinstance(outcome, Failed):
            raise WorkFailed(outcome)
        if not isinstance(outcome, Extended):
            raise TypeError(f"{type(work).__name__} was answered by {type(outcome).__name__}")
        return outcome.options

    def score(
        self, state: State, critics: tuple[str, ...], cost: int = 0
    ) -> Steps[Mapping[str, float]]:
        """Scores of a state by those of `critics` that answer, who may have to read `cost` tokens
        for it. When that fails each of them is asked alone, if there is room to read it once more.
        Raises `WorkFailed` when the KV pool is full."""
        if not critics:
            return {}
        work = Score(state, critics)
        self._meter.reserve(work, cost)
        (outcome,) = yield (work,)
        if isinstance(outcome, Scored):
            return outcome.scores
        if isinstance(outcome, Failed) and outcome.reason == "kv_exhausted":
            raise WorkFailed(outcome)
        if cost > self._meter.room:
            return {}
        works = tuple(Score(state, (name,)) for name in critics)
        for name, again in zip(critics, works, strict=True):
            self._meter.reserve(again, cost if name in self._reading_critics else 0)
        outcomes = yield works
        scores: dict[str, float] = {}
        for name, single in zip(critics, outcomes, strict=True):
            if isinstance(single, Scored):
                scores.update(single.scores)
            elif isinstance(single, Failed):
                if single.reason == "kv_exhausted":
                    raise WorkFailed(single)
                self._lose(name, single.message)
        return scores

    def evaluate(
        self, tree: Tree, node: Node, scores: Mapping[str, float], *, whole: bool = False
    ) -> Steps[None] | None:
        """Takes `scores` over. If there is more to know about `node`, the steps that ask for it.
        `whole`: its option is no step, but all that is left of a trajectory."""
        node.certainty = self._claims.certainty(node, whole=whole)
        self._take(node, scores)
        if node.end is not None or (self.rollouts and self.outcome_critics):
            return self._ask(tree, node)
        self._evaluated(tree, node)
        return None

    def _ask(self, tree: Tree, node: Node) -> Steps[None]:
        """An end is scored by every critic; what is unfinished gets rollouts."""
        try:
            if node.end is not None:
                unread = self._unread(node, self.missing(node))
                if not unread or unread <= self._meter.room:
                    yield from self.complete(node)
            elif critics := self.outcome_critics:
                yield from self._roll_out(tree, node, critics)
        finally:
            self._evaluated(tree, node)

    def _evaluated(self, tree: Tree, node: Node) -> None:
        self.note(tree, node)
        node.blocked = False
        over = node.end == "stop" or node.length >= self._max_tokens
        if over and not (node.end is not None and self.missing(node)):
            self.release(node)  # but for an end whose critics are asked once it is returned

    def complete(self, node: Node) -> Steps[None]:
        """Has `node` scored by every critic that was asked for."""
        if node.state is not None:
            missing = self.missing(node)
            cost = self._unread(node, missing)
            self._take(node, (yield from self.score(node.state, missing, cost)))

    def note(self, tree: Tree, node: Node) -> None:
        """Mixes the node's scores anew, and lets its parent and the tree know."""
        score = self.mix(self._along(node) if self._process_critics else node.scores)
        if score is None:
            return
        if score > 0:
            score *= node.certainty
        node.rate(score)
        if node.end == "stop":
            best = tree.best
            if best is None or best.score is None or score > best.score:
                tree.best = node

    def _along(self, node: Node) -> dict[str, float]:
        """The scores of `node`, those of process critics the lowest on the way from the prompt: a
        trajectory is no better than its worst step (Lightman et al., "Let's verify step by step",
        arXiv 2305.20050)."""
        scores = dict(node.scores)
        above = node.parent
        while above is not None and above.parent is not None:
            for name in self._process_critics:
                score = above.scores.get(name)
                if score is not None and score < scores.get(name, inf):
                    scores[name] = score
            above = above.parent
        return scores

    def release(self, node: Node) -> None:
        """Gives the node's KV back; nothing can follow it any more."""
        if node.state is not None:
            self._outbox.append(Release(node.state))
            node.state = None

    def _readings(self, critics: tuple[str, ...]) -> int:
        """How many of `critics` read every token with a model of their own."""
        return len(self._reading_critics.intersection(critics))

    def _unread(self, node: Node, critics: tuple[str, ...]) -> int:
        """Tokens that `critics` have to read at most before they can score `node`."""
        length = self._prompt_length + node.length
        reading = self._reading_critics.intersection(critics)
        return sum(length - self._read(node, (name,)) for name in reading)

    def _read(self, node: Node, critics: tuple[str, ...]) -> int:
        """Length of the nearest state with KV, `node` or before it, that any of `critics` has
        scored; 0 without one."""
        above: Node | None = node
        while above is not None:
            if above.state is not None and any(name in above.scores for name in critics):
                return self._prompt_length + above.length
            above = above.parent
        return 0

    def _take(self, node: Node, scores: Mapping[str, float]) -> None:
        for name, score in scores.items():
            if not isfinite(score):
                self._lose(name, f"{name} answered {score}")
                scores = {other: known for other, known in scores.items() if other != name}
        node.scores = {**node.scores, **scores} if node.scores else scores

    def _lose(self, critic: str, message: str) -> None:
        """`critic` is not asked any more."""
        self.lost.setdefault(critic, message)
        self.step_critics = tuple(n for n in self.step_critics if n != critic)
        self.outcome_critics = tuple(n for n in self.outcome_critics if n != critic)

    def _roll_out(self, tree: Tree, node: Node, critics: tuple[str, ...]) -> Steps[None]:
        """Scores `node` by the mean outcome of fast completions; those that fail do not count.
        There are none where the budget has no room for them."""
        assert node.state is not None
        count, models = self._rollouts.count, 1 + self._readings(critics)
        limit = min(self._rollouts.max_tokens, self._max_tokens - node.length)
        reading = self._prompt_length + node.length - self._read(node, critics)
        reading += self._unread(node, critics)
        limit = self._outlook.rollout(tree, limit, count, reading, models)
        if not limit:
            return
        actions = self._actions_to_end(node.depth)
        works = tuple(
            Rollout(
                node.state,
                self._rollout_sampling,
                (node.id, -1 - index),  # draws of options have the indices from 0 on
                limit,
                self._stop,
                critics,
                actions,
            )
            for index in range(count)
        )
        for work in works:
            self._meter.reserve(work, limit * models + reading)
            reading = 0
        outcomes = yield works
        done = [outcome for outcome in outcomes if isinstance(outcome, RolledOut)]
        for each in done:
            if each.finish != "length":
                tree.longest = max(tree.longest, node.length + len(each.tokens))
        means = {
            name: _mean(each.scores[name] for each in done if name in each.scores)
            for name in critics
        }
        self._take(node, {name: mean for name, mean in means.items() if mean is not None})


def _mean(scores: Iterable[float]) -> float | None:
    known = list(scores)
    return sum(known) / len(known) if known else None

"""What searches that are written out by hand have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcts_core.search.work import (
    Boundary,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Outcome,
    Release,
    RolledOut,
    Rollout,
    Sampling,
    Score,
    Scored,
    State,
)
from tests.mcts_core.engine.harness import Plan
from tests.mcts_core.models_zoo import VOCABULARY

PROMPT = tuple(range(5, 16))
SICK = VOCABULARY - 1
NEVER_SICK = ((SICK, -100.0),)
STEP = Boundary(strings=("\n",))


def tree(into: list[Outcome], seed: int = 0, prompt: tuple[int, ...] = PROMPT) -> Plan:
    """Opens a prompt and grows two generations of options, with rollouts and all critics."""
    (root,) = yield [Open(prompt, ("value", "prm", "orm"))]
    into.append(root)
    assert isinstance(root, Opened)
    parents: list[State] = [root.state]
    sampling = Sampling(seed=seed, logit_bias=NEVER_SICK)
    for generation in range(2):
        children: list[State] = []
        works = [
            Extend(parent, sampling, (generation, 10 * at + n), STEP, 9, critics=("prm",))
            for at, parent in enumerate(parents)
            for n in range(3)
        ]
        outcomes = yield works
        for outcome in outcomes:
            into.append(outcome)
            assert isinstance(outcome, Extended)
            children += [option.state for option in outcome.options]
        hot = Sampling(seed=seed, temperature=1.5, logit_bias=NEVER_SICK)
        outcomes = yield [
            work
            for n, child in enumerate(children)
            for work in (
                Rollout(child, hot, (generation, n), 7, critics=("orm", "value")),
                Score(child, ("orm", "value")),
            )
        ]
        into += outcomes
        parents = children[:2]
        yield [*(Release(child) for child in children[2:]), Score(children[0], ("prm",))]


def facts(outcomes: Sequence[Outcome]) -> list[Any]:
    """All that an outcome says, but for the state objects."""
    found: list[Any] = []
    for outcome in outcomes:
        match outcome:
            case Opened():
                found.append((dict(outcome.scores), outcome.spent))
            case Extended():
                for option in outcome.options:
                    found.append((option.tokens, option.logprobs, option.draw_logprobs))
                    found.append((option.finish, option.draws, dict(option.scores)))
                    found.append((list(option.state.tokens), option.embedding))
                found.append(outcome.spent)
            case RolledOut():
                found.append((outcome.tokens, outcome.finish, dict(outcome.scores), outcome.spent))
            case Scored():
                found.append((dict(outcome.scores), outcome.spent))
            case Failed():
                found.append((outcome.reason, outcome.message))
    return found

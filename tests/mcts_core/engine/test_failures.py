"""What would break: a failure that reaches beyond the work it belongs to, or answers nobody."""

from __future__ import annotations

import threading
from collections import deque
from itertools import count
from typing import Any, NoReturn

import pytest
import torch
from structlog.testing import capture_logs

from mcts_core.engine.resident import Resident
from mcts_core.engine.session import Session
from mcts_core.models.decoder import Computed
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import (
    Boundary,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Outcome,
    Release,
    Rollout,
    Sampling,
    Score,
    Scored,
)
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running
from tests.mcts_core.engine.plans import NEVER_SICK, PROMPT, facts, tree


def test_a_prompt_that_can_never_fit_fails_with_its_reason_beside_a_healthy_request() -> None:
    small = Running(blocks=12)
    reasons: list[Outcome] = []

    def hopeless() -> Plan:
        reasons.extend((yield [Open(tuple(3 + n % 90 for n in range(100)))]))

    def healthy() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 9)]

    answers = small.run(healthy(), hopeless(), healthy())
    assert [type(answer).__name__ for answer in answers] == ["list", "list", "list"]
    assert isinstance(reasons[0], Failed)
    assert reasons[0].reason == "kv_exhausted"
    small.idle()
    small.close()


def test_logits_that_are_not_finite_fail_their_own_request_only(
    running: Running, sick_token: int
) -> None:
    expected: list[Outcome] = []
    running.run(tree(expected, seed=2))
    sick: list[Outcome] = []

    def poisoned() -> Plan:
        sick.extend((yield [Open((*PROMPT, sick_token))]))

    for _ in range(3):
        healthy: list[Outcome] = []
        running.run(poisoned(), tree(healthy, seed=2), poisoned())
        assert facts(healthy) == facts(expected)
    assert {outcome.reason for outcome in sick if isinstance(outcome, Failed)} == {"numeric"}
    assert len([outcome for outcome in sick if isinstance(outcome, Failed)]) == 6


def test_work_that_breaks_while_it_is_done_fails_alone(running: Running) -> None:
    broken: list[Outcome] = []

    def odd() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        broken.extend((yield [Score(root.state, ("nobody",))]))

    outcomes: list[Outcome] = []
    _, healthy = running.run(odd(), tree(outcomes))
    assert isinstance(broken[0], Failed)
    assert broken[0].reason == "internal"
    assert isinstance(healthy, list)


def third_forward_fails(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that is out of memory; the forwards before and after it are done."""
    forward, calls = resident.forward, count(1)

    def failing(*arguments: Any) -> Computed:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("the device is out of memory")
        return forward(*arguments)

    monkeypatch.setattr(resident, "forward", failing)


def test_a_failing_forward_fails_what_was_in_it_and_the_engine_goes_on(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_forward_fails(running.residents["policy"], monkeypatch)
    outcomes: list[Outcome] = []
    running.run(tree(outcomes))
    assert any(isinstance(outcome, Failed) for outcome in outcomes)
    running.idle()
    again: list[Outcome] = []
    assert isinstance(running.run(tree(again))[0], list)


@pytest.mark.parametrize("how", ["cancelled", "expired", "preempted"])
def test_what_is_given_up_before_anybody_has_looked_is_cleaned(
    running: Running, sick_token: int, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Between a forward and the next draw; a NaN in a free block would reach whoever gets it."""
    resident, sessions, sick_forwards = running.residents["policy"], list[Session](), 0
    forward = resident.forward

    def then_given_up(rows: Any, copies: Any) -> Computed:
        nonlocal sick_forwards
        computed = forward(rows, copies)
        if any(sick_token in each.tokens for each in rows):
            sick_forwards += 1
            if how == "cancelled":
                running.engine.cancel(sessions[0])
            elif how == "expired":
                sessions[0].deadline = 0.0
            else:
                (run,) = running.engine._seating.runs
                running.engine._seating.vacate(run)
        return computed

    monkeypatch.setattr(resident, "forward", then_given_up)

    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        sick = Sampling(temperature=0.0, logit_bias=((sick_token, 100.0),))
        yield [Extend(root.state, sick, (0, 0), Boundary(), 9)]

    sessions.append(running.begin(plan(), lambda _: None))
    running.wait_for(lambda: bool(sick_forwards))
    running.idle()
    assert resident.storage.finite(range(resident.pool.total))


def test_an_option_that_fails_leaves_the_kv_of_its_siblings_alone(
    running: Running, sick_token: int
) -> None:
    """They share the prompt's blocks."""
    sick = Sampling(temperature=0.0, logit_bias=((sick_token, 100.0),))
    healthy = Sampling(temperature=0.0, logit_bias=NEVER_SICK)

    def plan(beside: bool, into: list[Outcome]) -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        works = [Extend(root.state, healthy, (0, 0), Boundary(), 9)]
        if beside:
            works.append(Extend(root.state, sick, (0, 1), Boundary(), 9))
        outcome, *failed = yield works
        assert all(isinstance(each, Failed) and each.reason == "numeric" for each in failed)
        into.append(outcome)
        into += yield [Extend(root.state, healthy, (0, 2), Boundary(), 9, critics=("orm",))]

    alone: list[Outcome] = []
    together: list[Outcome] = []
    running.run(plan(False, alone))
    running.run(plan(True, together))
    assert facts(together) == facts(alone)


def test_states_seated_before_a_run_failed_keep_their_seats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running(max_tokens=16)
    resident = running.residents["orm"]
    third_forward_fails(resident, monkeypatch)

    def plan() -> Plan:
        (root,) = yield [Open(tuple(range(5, 37)))]
        assert isinstance(root, Opened)
        (grown,) = yield [
            Extend(root.state, Sampling(logit_bias=((2, -100.0),)), (0, 0), Boundary(), 5)
        ]
        assert isinstance(grown, Extended)
        (option,) = grown.options
        (first,) = yield [Score(option.state, ("orm",))]
        assert isinstance(first, Failed)
        (second,) = yield [Score(option.state, ("orm",))]
        assert isinstance(second, Scored)
        assert second.spent == len(option.tokens)
        assert resident.pool.held == 10
        yield [Release(option.state), Release(root.state), Open(PROMPT)]
        assert resident.pool.held == 0

    (answer,) = running.run(plan())
    assert isinstance(answer, list), answer
    running.idle()
    running.close()


def test_a_released_state_is_not_seated_again(running: Running) -> None:
    """A critic that catches up passes by states that nobody will come back to."""

    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        (grown,) = yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 5)]
        assert isinstance(grown, Extended)
        (option,) = grown.options
        (scored,) = yield [Release(root.state), Score(option.state, ("orm",))]
        assert isinstance(scored, Scored)
        yield [Release(option.state), Open(PROMPT)]
        assert running.residents["orm"].pool.held == 0
        (late,) = yield [Score(root.state, ("orm",))]
        assert isinstance(late, Failed)
        assert late.reason == "internal"
        assert running.residents["orm"].pool.held == 0

    (answer,) = running.run(plan())
    assert isinstance(answer, list), answer


def test_an_option_that_fails_ends_the_others_of_its_work_at_once(
    running: Running, sick_token: int
) -> None:
    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        sampling = Sampling(seed=2, logit_bias=((END_TOKEN, -100.0),))
        (failed,) = yield [Extend(root.state, sampling, (0, 0), Boundary(), 60, draws=16)]
        assert isinstance(failed, Failed)
        assert failed.reason == "numeric"

    (answer,) = running.run(plan())
    assert isinstance(answer, list), answer
    assert answer[-1].account.policy.computed < len(PROMPT) + 16 * 10


def test_a_listener_that_raises_harms_nobody_else(running: Running) -> None:
    def streaming() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 9, stream=0)]

    def failing() -> Plan:
        yield [Open(PROMPT)]
        raise RuntimeError("a bug in this search")

    def deaf(news: Any) -> None:
        raise RuntimeError("nobody listens")

    outcomes: list[Outcome] = []
    running.begin(streaming(), deaf)
    running.begin(failing(), deaf)
    (healthy,) = running.run(tree(outcomes))
    assert isinstance(healthy, list)
    running.idle()
    running.begin(tree([]), deaf)
    running.engine.close()
    assert not running.engine.gauges().running


def test_a_request_that_comes_while_the_engine_closes_is_answered() -> None:
    running = Running()
    engine = running.engine
    closer = threading.Thread(target=engine.close)

    class Late(deque[tuple[str, Session]]):
        def append(self, entry: tuple[str, Session]) -> None:
            closer.start()
            closer.join(0.5)
            super().append(entry)

    engine._inbox = Late()
    heard: list[Any] = []
    running.begin(tree([]), heard.append)
    closer.join(10)
    assert len(heard) == 1
    assert isinstance(heard[0], SearchFailed)


def test_who_pays_for_what_does_not_depend_on_the_load() -> None:
    """Nor do the bits of a critic's scores: what rollouts have in common is computed first."""

    def plan(into: list[Outcome]) -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        safe = Sampling(seed=3, logit_bias=NEVER_SICK)
        grown = yield [Extend(root.state, safe, (0, n), Boundary(), 20) for n in range(2)]
        into += grown
        states = [o.options[0].state for o in grown if isinstance(o, Extended)]
        into += yield [
            Rollout(state, safe, (n, -1 - draw), 12 - draw, critics=("orm",))
            for n, state in enumerate(states)
            for draw in range(5)
        ]

    running = Running(max_tokens=16, blocks=4000)
    alone: list[Outcome] = []
    running.run(plan(alone))
    for company in range(2, 8):
        mine: list[Outcome] = []
        others = [tree([], seed=n, prompt=PROMPT[: 3 + n % 8]) for n in range(company)]
        running.run(*others, plan(mine))
        assert facts(mine) == facts(alone), company
    running.idle()
    running.close()


def test_the_gauges_add_up_at_any_moment(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read from other threads, while blocks come and go."""
    pool = running.residents["policy"].pool
    counts = iter(range(100))
    monkeypatch.setattr(type(pool), "free", property(lambda self: next(counts)))
    gauge = running.engine.gauges().pools["policy"]
    monkeypatch.undo()
    assert gauge.free + gauge.held + gauge.cached == gauge.total


def test_of_a_device_that_does_nothing_any_more_everybody_hears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after an error of CUDA that stays: what would clean up fails as well."""
    running = Running(start=False)
    resident = running.residents["policy"]
    forward, forwards = resident.forward, count()

    def broken(*_: object) -> NoReturn:
        raise RuntimeError("an illegal memory access")

    def breaking(*arguments: Any) -> Computed:
        if next(forwards) >= 5:
            monkeypatch.setattr(resident.storage, "zero", broken)
            broken()
        return forward(*arguments)

    monkeypatch.setattr(resident, "forward", breaking)
    heard: list[list[Any]] = [[], []]
    for told in heard:
        running.begin(tree([], 3), told.append)
    with capture_logs() as logged:  # a traceback with everything in sight takes seconds
        running.start()
        Running.wait_for(lambda: not running.engine.gauges().alive)
    assert "the engine stops" in [line["event"] for line in logged]
    assert [isinstance(told[-1], SearchFailed) for told in heard] == [True, True]
    late: list[Any] = []
    running.begin(tree([], 3), late.append)
    assert isinstance(late[0], SearchFailed)
    assert running.engine.gauges().running == 0

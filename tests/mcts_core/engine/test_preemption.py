"""What would break: a full pool that fails a request, stops the engine, or changes a result."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

from mcts_core.query import Reply
from mcts_core.search.work import (
    Boundary,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Outcome,
    Rollout,
    Sampling,
    Score,
    State,
)
from tests.mcts_core.engine.harness import Plan, Running
from tests.mcts_core.engine.test_engine import NEVER_SICK, PROMPT, facts, tree

LONG = tuple(3 + 7 * n % 90 for n in range(70))
HOT = Sampling(temperature=1.5, seed=7, logit_bias=((2, -100.0), *NEVER_SICK))


def bushy(into: list[Outcome], seed: int, prompt: Sequence[int] = LONG) -> Plan:
    """Four generations, each grown from several states of the one before, some of them cold by
    then: options that are drawn together and part, rollouts, and a critic that comes late."""
    sampling = Sampling(seed=seed, temperature=1.2, logit_bias=((2, -100.0), *NEVER_SICK))
    (root,) = yield [Open(tuple(prompt), ("prm",))]
    into.append(root)
    assert isinstance(root, Opened)
    parents: list[State] = [root.state]
    for generation in range(4):
        outcomes = yield [
            Extend(parent, sampling, (generation, 10 * at), Boundary(), 13, draws=3)
            for at, parent in enumerate(parents)
        ]
        into += outcomes
        children: list[State] = []
        for outcome in outcomes:
            assert isinstance(outcome, Extended), outcome
            children += [option.state for option in outcome.options]
        into += yield [
            Rollout(child, sampling, (generation, n), 9, critics=("orm",))
            for n, child in enumerate(children[:2])
        ]
        parents = [children[0], children[-1], *parents[:1]]
    into += yield [Score(state, ("orm", "value")) for state in parents]


def peak(plan: Plan, blocks: int = 4000) -> tuple[int, Running]:
    """Most blocks that one pool held."""
    running = Running(blocks=blocks)
    pools = [resident.pool for resident in running.residents.values()]
    most = 0
    for pool in pools:
        allocate = pool.allocate

        def counting(pool: Any = pool, allocate: Any = allocate) -> int:
            nonlocal most
            block: int = allocate()
            most = max(most, pool.held)
            return block

        pool.allocate = counting  # type: ignore[method-assign]
    ((*_, reply),) = running.run(plan)
    assert isinstance(reply, Reply)
    return most, running


@pytest.mark.parametrize("share", [1.1, 0.35])
def test_four_trees_in_a_pool_for_one_all_end_and_are_those_that_had_room(share: float) -> None:
    expected: list[list[Outcome]] = [[] for _ in range(4)]
    needed = 0
    for seed, outcomes in enumerate(expected):
        prompt = LONG[seed:]
        most, roomy = peak(bushy(outcomes, seed, prompt))
        needed = max(needed, most)
        roomy.idle()
        roomy.close()
    tight = Running(blocks=int(needed * share) + 1)
    found: list[list[Outcome]] = [[] for _ in range(4)]
    plans = [bushy(outcomes, seed, LONG[seed:]) for seed, outcomes in enumerate(found)]
    answers = tight.run(*plans)
    assert all(isinstance(answer, list) for answer in answers), answers
    computed = sum(answer[-1].account.spent for answer in answers)
    assert computed > sum(getattr(outcome, "spent", 0) for each in found for outcome in each)
    for outcomes, reference in zip(found, expected, strict=True):
        assert facts(outcomes) == facts(reference)
    tight.idle()
    tight.close()


def test_work_computed_twice_is_paid_for_once_and_counted_twice() -> None:
    outcomes: list[Outcome] = []
    most, roomy = peak(bushy(outcomes, 1))
    roomy.close()
    tight = Running(blocks=int(most * 0.35) + 1)
    again: list[Outcome] = []
    ((*_, reply),) = tight.run(bushy(again, 1))
    paid = sum(getattr(outcome, "spent", 0) for outcome in again)
    assert paid == sum(getattr(outcome, "spent", 0) for outcome in outcomes)
    assert reply.account.spent > paid
    tight.idle()
    tight.close()


def test_only_a_path_that_does_not_fit_an_empty_pool_is_told_so() -> None:
    small = Running(blocks=24)
    heard: list[Outcome] = []
    beside: list[Outcome] = []

    def too_long() -> Plan:
        (root,) = yield [Open(LONG)]
        assert isinstance(root, Opened)
        heard.extend((yield [Extend(root.state, HOT, (0, 0), Boundary(), 40)]))
        heard.extend((yield [Extend(root.state, HOT, (0, 1), Boundary(), 8)]))

    def fits() -> Plan:
        (root,) = yield [Open(LONG[:30])]
        assert isinstance(root, Opened)
        beside.extend((yield [Extend(root.state, HOT, (0, n), Boundary(), 40) for n in range(6)]))

    answers = small.run(fits(), too_long(), fits())
    assert all(isinstance(answer, list) for answer in answers)
    assert isinstance(heard[0], Failed)
    assert heard[0].reason == "kv_exhausted"
    assert isinstance(heard[1], Extended), "the search may go on with what fits"
    assert all(isinstance(outcome, Extended) for outcome in beside)
    small.idle()
    small.close()


def test_cancelling_in_a_full_pool_leaves_nothing_behind() -> None:
    small = Running(blocks=60)
    for round_ in range(12):
        heard: list[Any] = []
        sessions = [small.begin(bushy([], seed), heard.append) for seed in range(round_ % 3 + 2)]
        end = small.engine.gauges().steps + 9
        small.wait_for(lambda end=end: small.engine.gauges().steps > end)  # type: ignore[misc]
        for session in sessions:
            small.engine.cancel(session)
    small.idle()
    outcomes: list[Outcome] = []
    (answer,) = small.run(tree(outcomes))
    assert isinstance(answer, list), answer
    small.idle()
    small.close()


def test_a_search_that_never_needs_a_model_does_not_keep_the_engine_from_others(
    running: Running,
) -> None:
    def restless() -> Plan:
        (root,) = yield [Open(PROMPT, ("prm",))]
        assert isinstance(root, Opened)
        while True:
            yield [Score(root.state, ("prm",))]

    heard: list[Any] = []
    session = running.begin(restless(), heard.append)
    outcomes: list[Outcome] = []
    (answer,) = running.run(tree(outcomes))
    assert isinstance(answer, list)
    running.engine.cancel(session)
    running.idle()


def test_a_request_that_ended_holds_no_tensor_whoever_still_holds_its_states(
    running: Running,
) -> None:
    outcomes: list[Outcome] = []
    running.run(tree(outcomes))
    running.idle()
    states = [o.state for o in outcomes if isinstance(o, Opened)]
    states += [option.state for o in outcomes if isinstance(o, Extended) for option in o.options]
    assert len(states) > 6
    gc.collect()
    for state in states:
        for seat in state.seats.values():  # type: ignore[attr-defined]
            assert seat.branch is seat.hidden is seat.logits is None

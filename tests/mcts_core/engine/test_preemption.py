"""What would break: a full pool that fails a request, stops the engine, or changes a result."""

from __future__ import annotations

import gc
import random
import time
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
from tests.mcts_core.engine.plans import NEVER_SICK, PROMPT, facts, tree

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
            Extend(parent, sampling, (generation, 10 * at), Boundary(), 13, draws=3, embed=True)
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


@pytest.mark.parametrize(("share", "max_tokens"), [(1.1, 2048), (0.35, 2048), (0.3, 16)])
def test_four_trees_in_a_pool_for_one_all_end_and_are_those_that_had_room(
    share: float, max_tokens: int
) -> None:
    expected: list[list[Outcome]] = [[] for _ in range(4)]
    needed = 0
    for seed, outcomes in enumerate(expected):
        prompt = LONG[seed:]
        most, roomy = peak(bushy(outcomes, seed, prompt))
        needed = max(needed, most)
        roomy.idle()
        roomy.close()
    tight = Running(blocks=int(needed * share) + 1, max_tokens=max_tokens)
    found: list[list[Outcome]] = [[] for _ in range(4)]
    plans = [bushy(outcomes, seed, LONG[seed:]) for seed, outcomes in enumerate(found)]
    answers = tight.run(*plans)
    assert all(isinstance(answer, list) for answer in answers), answers
    accounts = [answer[-1].account for answer in answers]
    computed = sum(a.policy.computed + a.rollout.computed + a.critics.computed for a in accounts)
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
    account = reply.account
    assert account.spent == paid
    assert account.policy.computed + account.rollout.computed + account.critics.computed > paid
    tight.idle()
    tight.close()


@pytest.mark.parametrize("blocks", range(24, 28))
def test_only_a_path_that_does_not_fit_an_empty_pool_is_told_so(blocks: int) -> None:
    """And then it is, whatever else is in the pool."""
    small = Running(blocks=blocks)
    heard: list[list[Outcome]] = [[], [], []]
    beside: list[Outcome] = []

    def too_long(into: list[Outcome]) -> Plan:
        (root,) = yield [Open(LONG)]
        assert isinstance(root, Opened)
        for most in (8, 40, 22, 9):
            into.extend((yield [Extend(root.state, HOT, (0, most), Boundary(), most)]))

    def fits() -> Plan:
        (root,) = yield [Open(LONG[:30])]
        assert isinstance(root, Opened)
        beside.extend((yield [Extend(root.state, HOT, (0, n), Boundary(), 40) for n in range(6)]))

    small.run(too_long(heard[0]))
    answers = small.run(fits(), too_long(heard[1]), fits(), too_long(heard[2]))
    assert all(isinstance(answer, list) for answer in answers)
    first, second, third, last = heard[0]
    assert isinstance(second, Failed)
    assert second.reason == "kv_exhausted"
    room = (blocks - 1) * 4 - len(LONG)
    assert isinstance(third, Failed if room < 22 else Extended)
    assert isinstance(first, Extended)
    assert isinstance(last, Extended), "the search may go on with what fits"
    assert facts(heard[1]) == facts(heard[2]) == facts(heard[0])
    assert len(beside) == 12
    assert all(isinstance(outcome, Extended) for outcome in beside)
    small.idle()
    small.close()


@pytest.mark.parametrize("seed", range(2))
def test_whatever_meets_in_a_full_pool_comes_to_its_end(seed: int) -> None:
    """Many requests, short slices, prompts that begin alike, and some that are cancelled."""
    rng = random.Random(seed)
    for blocks, max_tokens in ((34, 16), (70, 64)):
        small = Running(blocks=blocks, max_tokens=max_tokens)
        heard: list[list[Any]] = []
        for _ in range(7):
            prompt = LONG[rng.randrange(4) : rng.randrange(20, 70)]
            heard.append([])
            session = small.begin(bushy([], rng.randrange(9), prompt), heard[-1].append)
            if rng.random() < 0.2:
                time.sleep(0.02 * rng.random())
                small.engine.cancel(session)
                heard.pop()
        for _ in range(6000):
            if all(heard):
                break
            time.sleep(0.01)
        assert all(isinstance(answer, list) for news in heard for answer in news), heard
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


def test_what_was_there_is_counted_once_however_long_a_run_waits_for_room() -> None:
    def alone(prompt: Sequence[int], tokens: int) -> Plan:
        (root,) = yield [Open(tuple(prompt))]
        assert isinstance(root, Opened)
        yield [Extend(root.state, HOT, (0, 0), Boundary(), tokens)]

    running = Running(blocks=62, start=False)
    waiting = tuple(3 + (3 + 7 * n) % 90 for n in range(100))
    before = tuple(3 + (1 + 5 * n) % 90 for n in range(40))
    session = running.begin(alone(waiting, 60), lambda news: None, priority=1)
    running.begin(alone(before, 150), lambda news: None)
    running.start()
    running.idle()
    pool, policy = running.residents["policy"].pool, session.account.policy
    assert policy.computed > session.account.spent, "it had to give way"
    assert policy.cached <= 2 * session.account.spent
    assert pool.found_tokens <= session.account.spent
    running.close()


def test_states_that_gave_up_their_kv_hold_no_logits() -> None:
    """A row of a large vocabulary takes more memory than a step's KV."""
    kept: list[tuple[bool, bool]] = []

    def many() -> Plan:
        (root,) = yield [Open(tuple(LONG[:60]))]
        assert isinstance(root, Opened)
        states: list[State] = []
        for draw in range(40):
            (outcome,) = yield [Extend(root.state, HOT, (draw, 0), Boundary(), 12)]
            assert isinstance(outcome, Extended)
            states += [option.state for option in outcome.options]
        seats = [state.seats["policy"] for state in states]  # type: ignore[attr-defined]
        kept.extend((seat.branch is not None, seat.logits is not None) for seat in seats)

    running = Running(blocks=40)
    running.run(many())
    assert all(kv == logits for kv, logits in kept)
    assert 0 < sum(kv for kv, _ in kept) < 40
    running.close()

"""What would break: a prompt that was found computes other bits than one that was not, pays
another price, or reaches another tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mcts_core.engine.resident import Resident
from mcts_core.query import Reply
from mcts_core.search.work import Account, Failed, Open, Opened, Outcome, Release
from tests.mcts_core.engine.harness import Plan, Running
from tests.mcts_core.engine.plans import SICK, facts, tree
from tests.mcts_core.engine.test_preemption import bushy

WARM = tuple(3 + 7 * n % 90 for n in range(150))


@pytest.mark.parametrize("block_size", [4, 16, 32])
@pytest.mark.parametrize("shared", [64, 76, 96, 150])
def test_a_search_is_the_same_bits_whether_its_prompt_was_found_or_computed(
    block_size: int, shared: int
) -> None:
    """The prompts end anywhere beside the ends of blocks, tiles and slices."""
    warm = Running(blocks=900, block_size=block_size)
    warm.run(bushy([], 4, WARM[:shared]))
    for length in (65, 80, 131):
        prompt = [*WARM[:shared], *range(20, 90), *range(9, 40)][:length]
        expected: list[Outcome] = []
        found: list[Outcome] = []
        fresh = Running(blocks=900, block_size=block_size)
        ((*_, computed),) = fresh.run(bushy(expected, 4, prompt))
        ((*_, reply),) = warm.run(bushy(found, 4, prompt))
        assert facts(found) == facts(expected)
        assert isinstance(computed, Reply)
        for kind in ("policy", "rollout", "critics"):
            ours, theirs = getattr(reply.account, kind), getattr(computed.account, kind)
            assert ours.computed + ours.cached == theirs.computed + theirs.cached
            assert theirs.computed - ours.computed >= min(length - 1, shared) // 32 * 32 - 32
            assert ours.computed < theirs.computed
        fresh.idle()
        fresh.close()
    warm.idle()
    warm.close()


def opened(prompt: Sequence[int]) -> Plan:
    yield [Open(tuple(prompt), ("orm",))]


def computed_for(running: Running, prompt: Sequence[int], salt: str | None = None) -> int:
    """Tokens that the models compute to open the prompt."""
    ((*_, reply),) = running.run(opened(prompt), salt=salt)
    account = reply.account
    return int(account.policy.computed + account.critics.computed)


def test_tenants_share_prompts_with_their_own_salt_only(running: Running) -> None:
    prompt = WARM[:65]
    assert computed_for(running, prompt) == 2 * 65
    assert computed_for(running, prompt) == 2
    assert computed_for(running, prompt, "mine") == 2 * 65
    assert computed_for(running, prompt, "mine") == 2
    assert computed_for(running, prompt, "yours") == 2 * 65


def test_a_prompt_of_whole_blocks_computes_its_last_tile_again(running: Running) -> None:
    assert computed_for(running, WARM[:64]) == 2 * 64
    assert computed_for(running, WARM[:64]) == 2 * 16


def test_nothing_is_kept_when_the_cache_is_switched_off() -> None:
    running = Running(prefix_cache=False)
    assert computed_for(running, WARM[:65]) == computed_for(running, WARM[:65]) == 2 * 65
    assert all(not resident.pool.cached for resident in running.residents.values())
    running.idle()
    running.close()


def test_the_gauges_count_cached_blocks_and_found_tokens(running: Running) -> None:
    computed_for(running, WARM[:65])
    running.idle()
    gauge = running.engine.gauges().pools["policy"]
    assert (gauge.cached, gauge.held, gauge.found_tokens) == (16, 0, 0)
    computed_for(running, WARM[:65])
    assert running.engine.gauges().pools["policy"].found_tokens == 64


def test_a_cached_prompt_gives_way_to_what_is_computed_now() -> None:
    running = Running(blocks=40)
    computed_for(running, WARM[:129])
    running.idle()
    assert running.engine.gauges().pools["policy"].free < 10
    assert computed_for(running, range(3, 90)) == 2 * 87
    running.idle()
    running.close()


def test_a_prompt_that_was_not_finite_is_not_kept(running: Running, sick_token: int) -> None:
    sick = [*WARM[:40], sick_token, *WARM[40:80]]
    ((*_, reply),) = running.run(opened(sick))
    assert isinstance(reply, Reply)
    pool = running.residents["policy"].pool
    assert pool.cached == pool.held == 0
    assert computed_for(running, WARM[:80]) == 2 * 80


def test_a_failure_behind_a_found_prompt_leaves_it_as_it_was(
    running: Running, sick_token: int
) -> None:
    """Its blocks are referred to by nobody else, and still they are not the run's own."""
    expected: list[Outcome] = []
    running.run(tree(expected, prompt=WARM[:70]))
    again: list[Outcome] = []
    sick: list[Outcome] = []

    def poisoned() -> Plan:
        sick.extend((yield [Open((*WARM[:64], sick_token, *WARM[65:70]))]))

    running.run(poisoned())
    assert isinstance(sick[0], Failed)
    running.run(tree(again, prompt=WARM[:70]))
    assert facts(again) == facts(expected)


def test_prompts_that_are_released_and_found_again_while_others_hold_them(
    running: Running,
) -> None:
    expected: list[Outcome] = []
    running.run(bushy(expected, 3, WARM[:90]))

    def restless() -> Plan:
        for end in (33, 65, 90, 140, 50):
            (root,) = yield [Open(WARM[:end], ("orm",))]
            assert isinstance(root, Opened)
            yield [Release(root.state), Open(WARM[20:end])]

    outcomes: list[Outcome] = []
    answers = running.run(restless(), bushy(outcomes, 3, WARM[:90]), restless())
    assert all(isinstance(answer, list) for answer in answers)
    assert facts(outcomes) == facts(expected)


def accounts(running: Running, *sessions: tuple[Plan, int, str | None]) -> list[Account]:
    """Of requests that come at the same time, each with its priority and salt."""
    begun = [
        running.begin(plan, lambda news: None, priority=priority, salt=salt)
        for plan, priority, salt in sessions
    ]
    running.start()
    running.idle()
    return [session.account for session in begun]


def computed_together(
    *sessions: tuple[Sequence[int], int, str | None], sick: int | None = None
) -> list[int]:
    """Tokens that the policy computes to open each prompt; `sick` is a token that it cannot."""
    running = Running(blocks=3000, slice_tokens=16, start=False)
    if sick is not None:
        embedding = running.residents["policy"].decoder.model.get_input_embeddings()
        embedding.weight.data[sick] = float("nan")
    plans = ((opened(prompt), priority, salt) for prompt, priority, salt in sessions)
    found = [account.policy.computed for account in accounts(running, *plans)]
    running.close()
    return found


def test_prompts_that_come_together_compute_what_they_have_in_common_once() -> None:
    others = [(*WARM[:80], *range(n, n + 20)) for n in range(1, 9)]
    prompts = [WARM[:100], *others, WARM[:100], WARM[:35], range(3, 60)]
    found = computed_together(*((prompt, 0, None) for prompt in prompts))
    assert found == [100, *[20] * 8, 4, 3, 57]


def test_nobody_waits_for_another_tenant_or_for_what_ranks_behind() -> None:
    prompt = WARM[:100]
    assert computed_together((prompt, 0, "mine"), (prompt, 0, "yours")) == [100, 100]
    assert computed_together((prompt, 5, None), (prompt, 0, None))[1] == 100


@pytest.mark.parametrize("steps", range(1, 9))
def test_who_waited_for_a_request_that_is_cancelled_goes_on_from_there(steps: int) -> None:
    """The first is cancelled in each of the steps that compute its prompt, and behind them."""
    expected: list[Outcome] = []
    fresh = Running(slice_tokens=16)
    fresh.run(tree(expected, prompt=WARM[:100]))
    fresh.close()
    running = Running(slice_tokens=16, start=False)
    found: list[Outcome] = []
    first = running.begin(opened(WARM[:100]), lambda news: None)
    count = 0

    def watched(resident: Resident) -> None:
        forward = resident.forward

        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == steps:
                running.engine.cancel(first)
            return forward(*arguments)

        resident.forward = counted  # type: ignore[method-assign]

    watched(running.residents["policy"])
    (account,) = accounts(running, (tree(found, prompt=WARM[:100]), 0, None))
    assert facts(found) == facts(expected)
    assert account.prompt_cached == 16 * min(steps, 6), "what it had computed is there"
    running.close()


def test_who_waited_for_a_prompt_that_fails_goes_on_from_what_was_finite() -> None:
    failing = [*WARM[:64], SICK, *WARM[65:70]]
    assert computed_together((failing, 0, None), (WARM[:70], 0, None), sick=SICK) == [70, 6]
    failing = [*WARM[:40], SICK, *WARM[41:70]]
    assert computed_together((failing, 0, None), (WARM[:70], 0, None), sick=SICK)[1] == 38

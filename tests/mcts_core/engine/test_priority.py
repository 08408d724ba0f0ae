"""What would break: a priority that orders nothing, one that changes a result, or a request that
its equals starve."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mcts_core.query import Reply
from mcts_core.search.work import Outcome
from tests.mcts_core.engine.harness import Plan, Running
from tests.mcts_core.engine.plans import PROMPT, facts, tree
from tests.mcts_core.engine.test_fairness import bush, greedy, steps
from tests.mcts_core.engine.test_preemption import LONG, bushy, peak


def test_a_narrow_step_is_the_urgent_requests_as_if_it_were_alone() -> None:
    size = {"blocks": 3000, "max_tokens": 8, "slice_tokens": 8}
    (alone,) = steps(Running(**size, start=False), greedy())  # type: ignore[arg-type]
    plans = [bush(), *(greedy(prompt=(*PROMPT, n)) for n in range(20, 32)), greedy()]
    priorities = [*[5] * 13, -1]
    *others, urgent = steps(
        Running(**size, start=False),  # type: ignore[arg-type]
        *plans,
        priorities=priorities,
    )
    assert urgent == alone
    assert min(others) > urgent


def test_lower_numbers_go_before_higher_ones() -> None:
    running = Running(blocks=3000, max_tokens=1, slice_tokens=1, start=False)
    priorities = [3, -7, 0, 2**31 - 1, 1]
    plans = [greedy(6, (*PROMPT, 20 + n)) for n in range(5)]
    ended = steps(running, *plans, priorities=priorities)
    assert sorted(ended, key=lambda step: priorities[ended.index(step)]) == sorted(ended)


@pytest.mark.parametrize("max_tokens", [2048, 16])
def test_in_a_full_pool_the_lowest_priority_gives_way_and_no_result_changes(
    max_tokens: int,
) -> None:
    """The urgent tree comes last into a pool that holds hardly more than it: it computes nothing
    twice, and the others come to the same end as alone."""
    expected: list[list[Outcome]] = [[] for _ in range(3)]
    accounts: list[int] = []
    needed = 0
    for seed, outcomes in enumerate(expected):
        most, roomy = peak(bushy(outcomes, seed, LONG[seed:]))
        needed = max(needed, most)
        roomy.idle()
        roomy.close()
    running = Running(blocks=int(needed * 1.1) + 1, max_tokens=max_tokens, start=False)
    found: list[list[Outcome]] = [[] for _ in range(3)]
    replies: dict[int, Reply] = {}
    done = threading.Event()

    def listener(index: int) -> Callable[[Any], None]:
        def listen(news: Any) -> None:
            assert isinstance(news, list), news
            if isinstance(news[-1], Reply):
                replies[index] = news[-1]
                if len(replies) == 3:
                    done.set()

        return listen

    def late() -> Plan:
        """Begins the urgent tree once the others fill the pool."""
        yield from greedy(12)
        running.begin(bushy(found[2], 2, LONG[2:]), listener(2), priority=-1)

    for seed in (0, 1):
        running.begin(bushy(found[seed], seed, LONG[seed:]), listener(seed), priority=seed)
    running.begin(late(), lambda news: None)
    running.start()
    assert done.wait(120), f"only {sorted(replies)} were answered"
    assert [facts(outcomes) for outcomes in found] == [facts(outcomes) for outcomes in expected]
    assert next(iter(replies)) == 2, "the urgent one comes last and is done first"
    for index in range(3):
        account = replies[index].account
        accounts.append(
            account.policy.computed + account.rollout.computed + account.critics.computed
        )
        paid = account.spent
        assert (accounts[index] > paid) == (index != 2), (index, accounts[index], paid)
    running.idle()
    running.close()


@pytest.mark.parametrize(
    "size",
    [
        {"blocks": 3000, "max_tokens": 16, "slice_tokens": 16},
        {"blocks": 70, "max_tokens": 64, "slice_tokens": 32, "prefix_cache": False},
    ],
    ids=["narrow-step", "full-pool"],
)
def test_a_steady_stream_of_equals_starves_nobody(size: dict[str, Any]) -> None:
    """Whenever one of them is answered the next one comes, for as long as it takes. Ours needs most
    of the small pool, and together the others could do with twice the pool at any moment."""
    running = Running(**size, start=False)
    answered = threading.Event()
    ended: list[int] = []
    served: list[int] = []
    broad = (*LONG, *LONG[::-1], *LONG[:50])

    def follow(news: Any) -> None:
        assert isinstance(news, list), news
        if isinstance(news[-1], Reply) and not ended:
            served.append(running.engine.gauges().steps)
            running.begin(another(), follow, priority=9)

    def another() -> Plan:
        at = len(served) % 40
        return greedy(20 + at, LONG[at : at + 30])

    def ours(news: Any) -> None:
        assert isinstance(news, list), news
        if isinstance(news[-1], Reply):
            ended.append(running.engine.gauges().steps)
            answered.set()

    for _ in range(6):
        running.begin(another(), follow, priority=9)
    running.begin(greedy(40, broad), ours, priority=9)
    for _ in range(6):
        running.begin(another(), follow, priority=9)
    running.start()
    assert answered.wait(60), f"{len(served)} others were served meanwhile"
    running.idle()
    running.close()
    (alone,) = steps(Running(**size, start=False), greedy(40, broad))
    assert served, "there was no load"
    assert ended[0] <= 20 * alone


def test_priorities_never_change_what_a_search_finds() -> None:
    def all_of(priorities: Sequence[int]) -> list[Any]:
        running = Running(max_tokens=16, start=False)
        found: list[list[Outcome]] = [[] for _ in priorities]
        plans = [tree(outcomes, seed=seed) for seed, outcomes in enumerate(found)]
        steps(running, *plans, priorities=priorities)
        return [facts(outcomes) for outcomes in found]

    same = all_of([0, 0, 0, 0])
    assert all_of([3, 2, 1, 0]) == all_of([0, 9, 0, -9]) == same

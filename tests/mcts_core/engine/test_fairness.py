"""What would break: a request that waits for ever beside others, or work that nobody wants any more
and that still takes part in steps. Counted in the engine's steps, so the machine's speed is no
matter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from mcts_core.engine.session import Session
from mcts_core.kv.branch import Copies
from mcts_core.models.decoder import Computed, Rows
from mcts_core.query import Reply
from mcts_core.search.work import Boundary, Extend, Extended, Open, Opened, Release, Sampling
from tests.mcts_core.engine.harness import Plan, Running
from tests.mcts_core.engine.plans import NEVER_SICK, PROMPT
from tests.mcts_core.engine.test_preemption import LONG

NEVER_ENDING = ((2, -100.0), *NEVER_SICK)
GREEDY = Sampling(temperature=0.0, logit_bias=NEVER_ENDING)
HOT = Sampling(temperature=1.5, seed=3, logit_bias=NEVER_ENDING)


def greedy(tokens: int = 40, prompt: Sequence[int] = PROMPT) -> Plan:
    (root,) = yield [Open(tuple(prompt))]
    assert isinstance(root, Opened), root
    (outcome,) = yield [Extend(root.state, GREEDY, (0, 0), Boundary(), tokens)]
    assert isinstance(outcome, Extended), outcome


def bush(branches: int = 64, generations: int = 4, tokens: int = 20) -> Plan:
    """As many options of one state at once, again and again."""
    (root,) = yield [Open(LONG)]
    assert isinstance(root, Opened)
    for generation in range(generations):
        outcomes = yield [
            Extend(root.state, HOT, (generation, branch), Boundary(), tokens)
            for branch in range(branches)
        ]
        for outcome in outcomes:
            assert isinstance(outcome, Extended)
            yield [
                *(Release(option.state) for option in outcome.options),
                Extend(root.state, HOT, (generation, 999), Boundary(), 1),
            ]


def steps(running: Running, *plans: Plan, priorities: Sequence[int] = ()) -> list[int]:
    """Starts the engine over plans that begin in the same step; how many steps each took."""
    ended: dict[int, int] = {}
    done = threading.Event()

    def listener(index: int) -> Callable[[Any], None]:
        def listen(news: Any) -> None:
            assert isinstance(news, list), news
            if isinstance(news[-1], Reply):
                ended[index] = running.engine.gauges().steps
                if len(ended) == len(plans):
                    done.set()

        return listen

    for index, plan in enumerate(plans):
        priority = priorities[index] if priorities else 0
        running.begin(plan, listener(index), priority=priority)
    running.start()
    assert done.wait(120), "a request was never answered"
    running.idle()
    running.close()
    return [ended[index] for index in range(len(plans))]


def test_a_greedy_request_beside_a_tree_of_64_branches_takes_hardly_longer_than_alone() -> None:
    """The branches are four times the step's rows; by turns, one row in each step is its own."""
    size = {"blocks": 3000, "max_tokens": 16, "slice_tokens": 16}
    (alone,) = steps(Running(**size, start=False), greedy())  # type: ignore[arg-type]
    for order in (1, -1):
        plans = [bush(), greedy()][::order]
        both = steps(Running(**size, start=False), *plans)  # type: ignore[arg-type]
        beside, tree = both[::-order]
        assert beside <= 1.5 * alone
        assert tree > 4 * alone, "the tree should have been there all the time"


def test_every_one_of_many_greedy_requests_gets_its_share_of_a_narrow_step() -> None:
    """Twelve requests and a tree share eight rows: less than two steps for a token of each, and the
    prompts before."""
    size = {"blocks": 3000, "max_tokens": 8, "slice_tokens": 8}
    (alone,) = steps(Running(**size, start=False), greedy())  # type: ignore[arg-type]
    crowd = [greedy(prompt=(*PROMPT, 20 + n)) for n in range(12)]
    *each, _ = steps(Running(**size, start=False), *crowd, bush())  # type: ignore[arg-type]
    assert max(each) <= 3 * alone


def test_long_prompts_in_slices_do_not_stop_what_is_being_drawn() -> None:
    def late(running: Running, prompts: int) -> Plan:
        """The option that is drawn; from the first token on, beside other requests' prompts."""
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        for n in range(prompts):
            long = tuple(3 + (7 * n + at) % 90 for at in range(240))
            running.begin(greedy(1, prompt=long), lambda news: None)
        yield [Extend(root.state, GREEDY, (0, 0), Boundary(), 40)]

    def drawing(prompts: int) -> int:
        """Steps from the option's first token to its last."""
        running = Running(blocks=3000, max_tokens=64, slice_tokens=32, start=False)
        drawn: list[int] = []
        with recorded(running) as forwards:
            steps(running, late(running, prompts))
        for step, sequences in enumerate(forwards):
            if any(len(rows.tokens) == 1 and rows.start < 60 for rows in sequences):
                drawn.append(step)
        assert len(drawn) == 40
        return drawn[-1] - drawn[0] + 1

    assert drawing(0) == drawing(1) == drawing(6) == 40


def test_a_prompt_gets_on_beside_more_options_than_a_step_holds() -> None:
    """In every second step a slice goes first, here one of eight."""
    running = Running(blocks=3000, max_tokens=32, slice_tokens=16, start=False)
    long = tuple(3 + 5 * at % 90 for at in range(128))
    reader, tree = steps(running, greedy(1, prompt=long), bush(64, 8))
    # The tree's own prompt takes turns with it.
    assert reader <= 2 * (128 / 16) + 2 * -(-len(LONG) // 16) + 4
    assert tree > 10 * reader


@contextmanager
def recorded(
    running: Running, model: str = "policy", look: Callable[[], None] = lambda: None
) -> Iterator[list[Sequence[Rows]]]:
    """What the model's forwards computed, one entry each; `look` is called before each."""
    forwards: list[Sequence[Rows]] = []
    resident = running.residents[model]
    forward = resident.forward

    def recording(sequences: Sequence[Rows], copies: Copies) -> Computed:
        look()
        forwards.append(sequences)
        return forward(sequences, copies)

    resident.forward = recording  # type: ignore[method-assign]
    try:
        yield forwards
    finally:
        resident.forward = forward  # type: ignore[method-assign]


def test_a_cancelled_request_leaves_at_the_next_step() -> None:
    running = Running(start=False)
    doomed: list[Session] = []
    seen: list[tuple[int, int]] = []
    resident = running.residents["policy"]

    def look() -> None:
        (session,) = doomed
        seen.append((len(session.ledger.branches), resident.pool.held))

    def killer() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        yield [Extend(root.state, GREEDY, (0, 0), Boundary(), 9)]
        seen.clear()
        running.engine.cancel(doomed[0])
        yield [Extend(root.state, GREEDY, (0, 1), Boundary(), 9)]

    doomed.append(running.begin(bush(), lambda news: None))
    with recorded(running, look=look):
        steps(running, killer())
    # The prompt's blocks, and those of the one option beside it.
    most = -(-(len(PROMPT) + 9) // 4) + -(-(len(PROMPT) + 9) // 4)
    assert doomed[0].ended
    assert seen
    assert all(branches == 0 and held <= most for branches, held in seen)


def test_a_released_branch_leaves_at_the_next_step() -> None:
    running = Running(start=False)
    held: list[int] = []
    pool = running.residents["policy"].pool
    serial = count()

    def growing() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        outcomes = yield [
            Extend(root.state, HOT, (0, next(serial)), Boundary(), 20) for _ in range(8)
        ]
        options = [o.options[0].state for o in outcomes if isinstance(o, Extended)]
        before = pool.held
        held.clear()
        yield [
            *(Release(state) for state in options[1:]),
            Extend(options[0], HOT, (1, 0), Boundary(), 3),
        ]
        own = -(-20 // 4)
        assert max(held) <= before - 7 * own + 2

    with recorded(running, look=lambda: held.append(pool.held)):
        steps(running, growing())
    assert held


def numbers(count: int, step: int = 7, start: int = 3) -> tuple[int, ...]:
    return tuple(3 + (start + step * at) % 90 for at in range(count))


def test_a_long_prompt_gets_its_room_however_many_short_ones_follow() -> None:
    """It takes nearly the whole pool, and there is always a newcomer that would do with less."""

    def long_ends(shorts: int) -> int:
        running = Running(blocks=70, slice_tokens=64, start=False)
        ended: dict[str, int] = {}
        left = iter(range(shorts))

        def listener(name: str, then: Callable[[], None]) -> Callable[[Any], None]:
            def listen(news: Any) -> None:
                assert isinstance(news, list), news
                if isinstance(news[-1], Reply):
                    ended[name] = running.engine.gauges().steps
                    then()

            return listen

        def short() -> None:
            n = next(left, None)
            if n is not None:
                plan = greedy(3 + n % 5, prompt=(20 + n % 60, 5, 6, 7, 8, 9))
                running.begin(plan, listener(f"short {n}", short))

        running.begin(greedy(4, prompt=numbers(240)), listener("long", lambda: None))
        for _ in range(8):
            short()
        running.start()
        Running.wait_for(lambda: len(ended) == 1 + shorts)
        running.idle()
        running.close()
        return ended["long"]

    assert long_ends(60) <= long_ends(8) + 4


def test_a_parked_tree_goes_on_beside_a_request_that_goes_before_it() -> None:
    """The pool lacks a few blocks for all of it: its own idle states give them."""

    def tree() -> Plan:
        (root,) = yield [Open(numbers(40))]
        assert isinstance(root, Opened)
        yield [Extend(root.state, HOT, (0, n), Boundary(), 24) for n in range(8)]

    def ends(blocks: int) -> int:
        running = Running(blocks=blocks, start=False)
        first = greedy(200, prompt=numbers(8, 5, 1))
        return steps(running, tree(), first, priorities=(1, 0))[0]

    assert ends(56) < 2 * ends(70)


def test_nobody_waits_for_the_rest_of_a_long_prompt_that_begins_alike() -> None:
    shared = numbers(32)
    short = (*shared, 9, 10, 11)

    def ends(prompt: Sequence[int]) -> int:
        running = Running(blocks=3000, max_tokens=64, slice_tokens=16, start=False)
        return steps(running, greedy(1, prompt=prompt), greedy(5, prompt=short))[-1]

    assert ends((*shared, *numbers(200, 11, 2))) <= ends(numbers(232, 11, 2)) + 3

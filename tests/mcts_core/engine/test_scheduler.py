"""What would break: a step full of runs that cannot move, or a prompt cut by the load."""

from __future__ import annotations

from mcts_core.engine.run import Run
from mcts_core.engine.scheduler import Scheduler
from mcts_core.engine.session import Job, Session
from mcts_core.engine.state import NodeState
from mcts_core.kv.blocks import BlockPool
from mcts_core.kv.branch import Branch
from mcts_core.search.work import Account, Open, Tally
from tests.mcts_core.engine.harness import Plan, Scripted


def plan() -> Plan:
    yield []


def request(pool: BlockPool, *lengths: int) -> list[Run]:
    """A request with a run for each number of tokens to be computed."""
    session = Session(Scripted(plan()), Account(), lambda news: None, 0.0)
    job = Job(session, Open((1,)), 0)
    return [
        Run(
            job=job,
            model="policy",
            branch=Branch(pool, session.ledger),
            tokens=[1] * length,
            tally=Tally(),
            origin=NodeState([1], None, 1),
            stretches=[1],
            charged=0,
        )
        for length in lengths
    ]


def test_runs_without_room_leave_their_places_in_the_step_to_others() -> None:
    pool = BlockPool(50)
    runs = request(pool, *[1] * 6)
    stuck = runs[:4]
    for scheduler in (Scheduler(2, 2), Scheduler(100, 50)):
        picked = scheduler.pick(runs, lambda run, count: run not in stuck)
        assert [run for run, _ in picked] == runs[4:]


def test_requests_take_turns_when_not_all_runs_fit() -> None:
    pool = BlockPool(50)
    broad, narrow = request(pool, *[1] * 9), request(pool, 1)
    picked = Scheduler(3, 3).pick([*broad, *narrow], lambda run, count: True)
    assert len(picked) == 3
    assert narrow[0] in [run for run, _ in picked]


def test_prompts_are_cut_at_the_same_places_whatever_the_load() -> None:
    pool = BlockPool(50)
    (prompt,) = request(pool, 100)
    scheduler = Scheduler(64, 32)
    for load in (0, 5, 40):
        beside = request(pool, *[1] * load)
        for start, count in ((0, 32), (16, 16), (32, 32), (96, 4)):
            prompt.branch.truncate(0)
            prompt.branch.grow(start)
            picked = scheduler.pick([*beside, prompt], lambda run, count: True)
            assert {cut for run, cut in picked if run is prompt} <= {count}


def test_a_lower_priority_number_has_what_it_wants_of_a_step_and_others_the_rest() -> None:
    pool = BlockPool(50)
    broad, urgent, least = request(pool, *[1] * 9), request(pool, *[1] * 3), request(pool, 1)
    for runs, priority in ((broad, 4), (urgent, -2), (least, 9)):
        runs[0].job.session.priority = priority
    for budget, picked in ((2, urgent[:2]), (5, [*urgent, *broad[:2]]), (99, None)):
        entries = Scheduler(budget, 1).pick([*least, *broad, *urgent], lambda run, count: True)
        assert [run for run, _ in entries] == (picked or [*urgent, *broad, *least])


def test_who_has_waited_for_longest_begins_whoever_comes_and_goes() -> None:
    pool = BlockPool(50)
    scheduler = Scheduler(2, 1)
    crowd = [request(pool, 1)[0] for _ in range(5)]
    waited = dict.fromkeys(crowd, 0)
    for step in range(40):
        picked = {run for run, _ in scheduler.pick(crowd, lambda run, count: True)}
        for run in crowd:
            waited[run] = 0 if run in picked else waited[run] + 1
        assert max(waited.values()) <= 3
        # One leaves and another comes, now before and now behind those who wait.
        waited.pop(crowd.pop(step % 5))
        crowd.insert(3 * step % 5, request(pool, 1)[0])
        waited[crowd[3 * step % 5]] = 0


def test_slices_and_single_tokens_do_not_stop_each_other() -> None:
    pool = BlockPool(50)
    scheduler = Scheduler(8, 8)
    prompts, drawn = [request(pool, 8)[0] for _ in range(4)], request(pool, *[1] * 8)
    seen = [
        {run for run, _ in scheduler.pick([*prompts, *drawn], lambda run, count: True)}
        for _ in range(16)
    ]
    assert sum(1 for picked in seen if picked == set(drawn)) == 8
    assert all(sum(1 for picked in seen if picked == {prompt}) == 2 for prompt in prompts)

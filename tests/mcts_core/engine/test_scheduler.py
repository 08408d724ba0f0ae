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

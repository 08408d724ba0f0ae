from __future__ import annotations

import pytest

from mcts_core.search.flow import Flow, Steps, WorkFailed, attempt, gather
from mcts_core.search.work import Failed, Outcome, Score, Scored, Work
from tests.mcts_core.search.world import WorldState


def score(name: str) -> Score:
    return Score(WorldState(()), (name,))


def ask(name: str, log: list[str], rounds: int = 1) -> Steps[str]:
    for _ in range(rounds):
        (outcome,) = yield (score(name),)
        if isinstance(outcome, Failed):
            raise WorkFailed(outcome)
        log.append(name)
    return name


def flow_of(many: list[Steps[str]], log: list[str], failed: list[Failed], parallel: int) -> Flow:
    def forget(steps: Steps[str]) -> Steps[None]:
        yield from steps

    def begin(in_flight: int) -> Steps[None] | None:
        return forget(many.pop(0)) if many and in_flight < parallel else None

    def commit(work: Work, outcome: Outcome) -> None:
        log.append("commit")

    return Flow(begin, commit, failed.append, [])


def test_only_the_oldest_goes_on_however_early_the_others_are_done() -> None:
    log: list[str] = []
    flow = flow_of([ask("a", log), ask("b", log), ask("c", log)], log, [], parallel=2)
    first, second = flow.start()
    assert flow.deliver(second, Scored({})) == ()
    assert log == []
    issued = flow.deliver(first, Scored({}))
    assert log == ["commit", "a", "commit", "b"]
    assert [work.critics for work in issued] == [("c",)]  # type: ignore[union-attr]


def test_one_that_asks_again_goes_to_the_end_of_the_queue() -> None:
    log: list[str] = []
    flow = flow_of([ask("a", log, rounds=2), ask("b", log)], log, [], parallel=2)
    first, second = flow.start()
    (again,) = flow.deliver(first, Scored({}))
    assert flow.deliver(again, Scored({})) == ()
    flow.deliver(second, Scored({}))
    assert log == ["commit", "a", "commit", "b", "commit", "a"]


def test_a_failure_ends_its_own_generator_only() -> None:
    log: list[str] = []
    failed: list[Failed] = []
    flow = flow_of([ask("a", log), ask("b", log)], log, failed, parallel=2)
    first, second = flow.start()
    flow.deliver(first, Failed("kv_exhausted", "full"))
    flow.deliver(second, Scored({}))
    assert log == ["commit", "commit", "b"]
    assert [failure.message for failure in failed] == ["full"]


def test_work_that_was_not_asked_for_is_refused() -> None:
    flow = flow_of([ask("a", [])], [], [], parallel=1)
    flow.start()
    with pytest.raises(ValueError, match="does not wait for"):
        flow.deliver(score("a"), Scored({}))


def test_closing_runs_what_generators_have_to_clean_up() -> None:
    cleaned: list[str] = []

    def tidy() -> Steps[str]:
        try:
            yield (score("a"),)
        finally:
            cleaned.append("a")
        return "a"

    flow = flow_of([tidy()], [], [], parallel=1)
    flow.start()
    flow.close()
    assert cleaned == ["a"]


def send(steps: Steps[list[str | Failed]], outcomes: tuple[Outcome, ...]) -> tuple[Work, ...]:
    return steps.send(outcomes)


def test_gathered_steps_go_on_round_by_round_and_answer_in_order() -> None:
    log: list[str] = []
    steps = gather([attempt(ask("a", log, rounds=2)), attempt(ask("b", log))])
    assert len(next(steps)) == 2
    assert len(send(steps, (Scored({}), Scored({})))) == 1
    with pytest.raises(StopIteration) as stop:
        send(steps, (Scored({}),))
    assert stop.value.value == ["a", "b"]
    assert log == ["a", "b", "a"]


def test_an_attempt_gives_its_failure_as_a_result() -> None:
    steps = gather([attempt(ask("a", [])), attempt(ask("b", []))])
    next(steps)
    with pytest.raises(StopIteration) as stop:
        send(steps, (Failed("kv_exhausted", "full"), Scored({})))
    assert stop.value.value == [Failed("kv_exhausted", "full"), "b"]

"""What would break: a request whose listener is not told, is told too late, or is never let go."""

from __future__ import annotations

import random
import time
from typing import Any

from mcts_core.query import Reply, TokenEvent
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Boundary, Extend, Extended, Open, Opened, Outcome, Sampling
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running, Scripted
from tests.mcts_core.engine.plans import PROMPT, tree


def test_streamed_pieces_join_to_the_options_text(running: Running) -> None:
    texts: list[str] = []

    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        (option,) = yield [
            Extend(root.state, Sampling(seed=4), (0, 0), Boundary(), 20, stop=("AB",), stream=3)
        ]
        assert isinstance(option, Extended)
        texts.append(option.options[0].text)

    ((*events, reply),) = running.run(plan())
    assert isinstance(reply, Reply)
    assert all(isinstance(event, TokenEvent) and event.choice == 3 for event in events)
    assert len(events) == 20 or END_TOKEN in [event.logprobs[0].token for event in events]
    assert "".join(event.text for event in events) == texts[0]


def test_cancelling_at_any_moment_leaves_nothing_behind(running: Running) -> None:
    rng = random.Random(3)
    for _ in range(60):
        heard: list[Any] = []
        session = running.begin(tree([], seed=rng.randrange(99)), heard.append)
        other: list[Outcome] = []
        time.sleep(rng.random() * 0.03)
        running.engine.cancel(session)
        if rng.random() < 0.1:
            running.run(tree(other, seed=1))
    running.idle()
    outcomes: list[Outcome] = []
    assert isinstance(running.run(tree(outcomes))[0], list)


def test_a_deadline_ends_a_search_within_a_step(running: Running) -> None:
    def endless() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        while True:
            yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 50)]

    heard: list[Any] = []
    session = running.begin(endless(), heard.append, deadline=0.3)
    running.wait_for(lambda: bool(heard))
    assert isinstance(heard[0], SearchFailed)
    assert heard[0].reason == "deadline"
    search = session.search
    assert isinstance(search, Scripted)
    for work, extended in search.unfinished:
        assert isinstance(work, Extend)
        (option,) = extended.options
        assert 1 <= len(option.tokens) <= 50
        assert option.tokens == tuple(option.state.tokens[len(PROMPT) :])
        assert len(option.text) == len([t for t in option.tokens if t != END_TOKEN])
        assert not option.scores


def test_an_error_in_one_search_fails_that_request_only(running: Running) -> None:
    def broken() -> Plan:
        yield [Open(PROMPT)]
        raise RuntimeError("a bug in this search")

    outcomes: list[Outcome] = []
    first, second = running.run(broken(), tree(outcomes))
    assert isinstance(first, SearchFailed)
    assert first.reason == "internal"
    assert "a bug in this search" in str(first)
    assert isinstance(second, list)


def test_a_search_that_waits_for_nothing_fails_instead_of_hanging(running: Running) -> None:
    def lost() -> Plan:
        yield []

    (answer,) = running.run(lost())
    assert isinstance(answer, SearchFailed)
    assert answer.reason == "internal"


def test_closing_answers_everyone() -> None:
    engine = Running()
    heard: list[Any] = []
    for seed in range(5):
        engine.begin(tree([], seed=seed), heard.append)
    engine.close()
    assert len(heard) == 5
    assert all(isinstance(answer, SearchFailed) for answer in heard)
    for resident in engine.residents.values():
        assert resident.pool.held == 0
    late: list[Any] = []
    engine.begin(tree([]), late.append)
    assert isinstance(late[0], SearchFailed)

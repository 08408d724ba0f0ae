"""A ledger that loses or repeats a line makes a resumed run another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.errors import EvalError
from evals.ledger import Key, Ledger, Record

HEADER = {"task": "game24", "parameters": {"policy": 3}}
REQUEST = Record(Key("rank 1", "mcts", 200, 0), "abc", {"method": "mcts"})
ANSWER = replace(REQUEST, text="Antwort: ½\n", seconds=0.5, report={"tokens": {"spent": 3}})


@given(st.data())
def test_wherever_a_kill_cuts_it_whole_lines_are_kept_and_the_rest_is_run(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    answers = [replace(ANSWER, key=Key(f"rank {n}", "mcts", None, n)) for n in range(4)]
    with Ledger(path, HEADER) as ledger:
        for answer in answers:
            ledger.append(answer)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = max(0, content[:cut].count(b"\n") - 1)
    with Ledger(path, HEADER) as ledger:
        assert list(ledger.records.values()) == answers[:whole]
        for answer in answers:
            if not ledger.done(answer):
                ledger.append(answer)
    assert path.read_bytes() == content


def test_errors_are_run_again_and_the_last_record_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    with Ledger(path, HEADER) as ledger:
        assert not ledger.done(REQUEST)
        ledger.append(replace(REQUEST, error="503: full"))
        assert not ledger.done(REQUEST)
        ledger.append(ANSWER)
    with Ledger(path, HEADER) as ledger:
        assert ledger.done(REQUEST)
        assert ledger.records == {REQUEST.key: ANSWER}


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, HEADER) as ledger:
        ledger.append(ANSWER)
        with pytest.raises(EvalError, match="in use"):
            Ledger(path, HEADER)
    with pytest.raises(EvalError, match="another parameters"):
        Ledger(path, {**HEADER, "parameters": {"policy": 4}})
    with Ledger(path, HEADER) as ledger:
        with pytest.raises(EvalError, match="item"):
            ledger.done(replace(REQUEST, digest="other"))
        with pytest.raises(EvalError, match="search"):
            ledger.done(replace(REQUEST, search={"method": "mcts", "parallel": 1}))
    path.write_text("{}\nno json\n")
    with pytest.raises(EvalError, match="ledger"):
        Ledger(path, {})

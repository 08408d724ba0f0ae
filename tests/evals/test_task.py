"""Items, answers or prompts that are read wrongly make every figure after them wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo import puzzle as puzzles
from evals import task
from evals.errors import EvalError


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return path


def test_game24_is_the_hundred_test_puzzles() -> None:
    read = task.read("game24")
    assert [read.prompt(item) for item in read.items] == [
        each.prompt for each in puzzles.test_puzzles()
    ]
    assert [item.id for item in task.read("game24:1-3").items] == ["rank 1", "rank 2", "rank 3"]


def test_countdown_is_held_out_solvable_distinct_and_the_same_for_a_seed() -> None:
    items = task.read("countdown:7:40").items
    found = [puzzles.parse_prompt(item.question) for item in items]
    assert all(puzzles.is_held_out(each.numbers) and each.solvable for each in found)
    assert len({(tuple(sorted(each.numbers)), each.target) for each in found}) == 40
    assert task.read("countdown:7:40").items == items
    assert task.read("countdown:8:40").items != items


def test_files_give_questions_and_answers(tmp_path: Path) -> None:
    gsm = lines(tmp_path / "g.jsonl", {"question": "6 x 3?", "answer": "6*3=18\n#### 1,018"})
    read = task.read(f"gsm8k:{gsm}")
    assert read.items == (task.Item("g.jsonl:1", "6 x 3?", "1,018"),)
    assert read.prompt(read.items[0]) == "Question: 6 x 3?\nAnswer:"
    math = lines(
        tmp_path / "m.jsonl",
        {"problem": "p", "solution": r"so \boxed{\frac{1}{2}}."},
        {"problem": "q", "answer": "7"},
    )
    assert [item.answer for item in task.read(f"math:{math}").items] == [r"\frac{1}{2}", "7"]
    plain = lines(
        tmp_path / "j.jsonl", {"prompt": "a", "answer": 3}, {"prompt": "b", "answer": "4"}
    )
    assert [item.answer for item in task.read(f"jsonl:{plain}").items] == ["3", "4"]
    assert len(task.read(f"jsonl:{plain}", limit=1).items) == 1


def test_a_template_may_hold_braces(tmp_path: Path) -> None:
    read = task.read("game24:901-901", template=r"\boxed{24}: {question}|")
    assert read.prompt(read.items[0]) == "\\boxed{24}: Use 4 5 6 10 to make 24.\n|"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("chess", "chess"),
        ("game24:first", "FIRST-LAST"),
        ("game24:2000-3000", "no items"),
        ("countdown:1", "SEED:COUNT"),
        ("countdown:1:100000", "2000"),
        ("jsonl:/no/such/file", "/no/such/file"),
    ],
)
def test_mistakes_are_named(spec: str, named: str) -> None:
    with pytest.raises(EvalError, match=named):
        task.read(spec)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "g.jsonl", {"question": "q", "answer": "18"})
    with pytest.raises(EvalError, match=r"g\.jsonl:1.*####"):
        task.read(f"gsm8k:{path}")
    with pytest.raises(EvalError, match=r"g\.jsonl:1 needs a text 'prompt'"):
        task.read(f"jsonl:{path}")
    with pytest.raises(EvalError, match="question"):
        task.read("game24", template="no place")

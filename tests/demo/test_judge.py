"""The judge of written lines."""

import pytest

from demo.judge import judge, judge_choices
from demo.puzzle import Puzzle


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("13 - 9 = 4 (left: 4 4 10)\n", 1),
        ("13 - 9 = 4 (left: 4 10 4)\n", 1),
        ("13 - 9 = 5 (left: 4 5 10)\n", 0),
        ("13 - 9 = 4 (left: 4 4)\n", 0),
        ("13 - 8 = 5 (left: 4 5 10)\n", 0),
        ("9 * 13 = 117 (left: 4 10 117)\n", 0),
        ("13 - 9 = 4\n", 0),
        ("so 13 - 9 = 4 (left: 4 4 10)\n", 0),
        ("13 / 0 = 4 (left: 4 4 10)\n", 0),
        ("\n", 0),
        ("Answer: (13 - 9) * (10 - 4) = 24", 1),
    ],
)
def test_the_judge_sees_mistakes(line: str, label: int) -> None:
    assert judge(Puzzle((4, 9, 10, 13), 24), [line]) == (1, label)


def test_a_mistake_is_not_forgiven_later() -> None:
    lines = ["13 - 9 = 5 (left: 4 5 10)\n", "13 - 9 = 4 (left: 4 4 10)\n"]
    assert judge(Puzzle((4, 9, 10, 13), 24), lines) == (1, 0, 0)


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("13 - 9 = 4 (left: 4 4 10)\n", 1),
        ("13 - 9 = 5 (left: 4 5 10)\n", 1),
        ("13 - 8 = 5 (left: 4 5 10)\n", 0),
        ("9 * 13 = 117 (left: 4 10 117)\n", 0),
        ("13 / 0 = 4\n", 0),
        ("4 - 13 = 9 (left: 9 9 10)\n", 0),
        ("13 - 9 - 4 = 0\n", 0),
        ("13 ^ 9 = 4\n", 0),
        ("13 - 9\n", None),
        ("Answer: (13 - 9) * (10 - 4) = 25", 1),
        ("Answer: (13 + 9) * (10 - 4) = 24", 0),
    ],
)
def test_a_choice_is_judged_whatever_is_made_of_it(line: str, label: int | None) -> None:
    assert judge_choices(Puzzle((4, 9, 10, 13), 24), [line]) == (label,)


def test_a_choice_after_a_mistake_is_wrong() -> None:
    lines = ["13 - 9 = 5 (left: 4 5 10)\n", "10 - 4 = 6 (left: 4 6)\n", "4 * 6 = 24 (left: 24)\n"]
    assert judge_choices(Puzzle((4, 9, 10, 13), 24), lines) == (1, 0, 0)

"""The judge of written lines."""

import pytest

from demo.judge import judge
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

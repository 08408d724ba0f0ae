"""A lenient grader reports solved what is not; a strict one hides what is."""

from __future__ import annotations

import pytest

from evals import grader


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("so 6 * 3 = 18\n#### 18", True),
        ("#### $18.00", True),
        ("#### 18 dollars", True),
        ("#### 1,018", False),
        ("Answer: 18", True),
        ("Answer: 17\nnot 18", False),
        ("The answer is 18.", True),
        ("Each day 16 - 3 - 4 = 9, which makes $18 a day.", True),
        ("18 eggs, and 3 left", False),
        (r"thus \boxed{18}", True),
        ("nobody knows", False),
        ("", False),
        ("####", False),
        ("#### 18\n\nQuestion: and then?\nAnswer: 7\n#### 7", True),
    ],
)
def test_numbers(completion: str, right: bool) -> None:
    assert grader.number("", "18", completion) is right


@pytest.mark.parametrize(
    ("answer", "completion", "right"),
    [
        (r"\frac{1}{2}", r"So it is \boxed{0.5}.", True),
        (r"\frac{1}{2}", r"So it is \boxed{\frac{2}{3}}.", False),
        (r"x^2+2x", r"Answer: $2x + x^2$", True),
        ("Paris", "Answer: Paris", True),
        ("$10-4 n$", r"Thus $\boxed{-4n + 10}$.", True),
        ("Paris", "Answer: London", False),
        ("9^9^9^9^9", r"\boxed{9^{9^{9^{9}}}}", False),
        (r"48^\circ", r"Thus \boxed{48}.", True),
        (r"\{x|-2\leq x < 1\}", r"\boxed{[-2, 1)}", False),
        (r"[-2, 7]", r"\boxed{x \in [-2,7]}", True),
        (r"6 r^{3}-43 r^{2}+12 r-35", r"\boxed{(r - 7)(6r^2 - r + 5)}", True),
        (r"6 r^{3}-43 r^{2}+12 r-35", r"\boxed{(r - 7)(6r^2 - r + 4)}", False),
        (
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            r"\boxed{\begin{bmatrix}1\\2\end{bmatrix}}",
            True,
        ),
        ("5", "Answer: between 3 and 5", False),
    ],
)
def test_formulas(answer: str, completion: str, right: bool) -> None:
    assert grader.formula("", answer, completion) is right


def test_a_puzzle_is_judged_by_its_expression() -> None:
    question = "Use 4 9 10 13 to make 24.\n"
    right = "Answer: (13 - 9) * (10 - 4) = 24"
    assert grader.puzzle(question, "24", right)
    assert not grader.puzzle(question, "24", "Answer: 4 * 6 = 24")
    assert not grader.puzzle(question, "24", "24")

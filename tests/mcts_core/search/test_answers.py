from __future__ import annotations

import sys
import time

import pytest

from mcts_core.search.answers import Comparison, extract


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 2 = 3\nAnswer: 3", "3"),
        ("Answer: 4\nNo, wait.\nanswer: 5.\nSo it is.", "5"),
        ("**Final answer:** $\\boxed{\\frac{1}{2}}$\n", "\\frac{1}{2}"),
        ("The answer is: 7", "7"),
        ("Answer: (13 - 9) * (10 - 4) = 24\n", "(13 - 9) * (10 - 4) = 24"),
        ("so \\boxed{3}, and then \\boxed{x^{2}} it is", "x^{2}"),
        ("\\boxed{3} and an \\boxed{open one", "3"),
        ("Answer:\nforty-two\n\n", "forty-two"),
        ("It costs\n$5\n", "5"),
        ("", ""),
    ],
)
def test_the_answer_is_the_last_one_that_the_text_gives(text: str, answer: str) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("13 - 9", "13-9"),
        ("1/2", "0.5"),
        ("\\frac{1}{2}", ".5"),
        ("-\\dfrac{1}{2}", "-0.50"),
        ("50\\%", "0.5"),
        ("1,000", "1000"),
        ("x = 5", "5.0"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("2^3", "8"),
        ("100\\text{ square units}", "100"),
        ("\\text{Tuesday}", "Tuesday"),
    ],
)
def test_the_same_answer_in_other_words_is_the_same(one: str, other: str) -> None:
    assert Comparison().same(one, other)
    assert Comparison().same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "6"),
        ("1 2", "12"),
        ("24 apples", "24"),
        ("(13 - 9) * (10 - 4) = 24", "(13 + 9) * (10 - 4) = 24"),
        ("1/0", "1"),
        ("\\pi", "3.14"),
        ("\\frac{1}{", "1"),
        ("x", "y"),
        ("", "0"),
    ],
)
def test_different_answers_are_not_the_same(one: str, other: str) -> None:
    assert not Comparison().same(one, other)


@pytest.mark.parametrize(
    "bomb", ["9^{9^{9^{9}}}", "9**9**9**9", "(a+b+c+d+e)^9", "9^x" * 9, "9!!!"]
)
def test_no_answer_keeps_the_engine_busy(bomb: str) -> None:
    began = time.thread_time()  # whatever else the machine is doing
    assert not Comparison().same(bomb, "\\sqrt{2}")
    assert time.thread_time() - began < 0.5


def test_one_search_may_only_compare_so_many_formulas() -> None:
    comparison = Comparison()
    for number in range(2, 60):
        comparison.same(f"\\sqrt{{{number}}}", "\\pi")
    assert not comparison.same("\\sqrt{8}", "2\\sqrt{2}")
    assert comparison.same("1/2", "0.5"), "numbers are compared all the same"


def test_formulas_are_compared_without_the_library_by_their_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert not Comparison().same("\\sqrt{8}", "2\\sqrt{2}")
    assert Comparison().same("\\sqrt{ 8 }", "\\sqrt{8}")

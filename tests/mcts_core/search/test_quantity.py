from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.search.quantity import Quantity, quantity


@pytest.mark.parametrize(
    ("text", "value", "percent", "unit"),
    [
        ("48^\\circ", 48, False, "\\circ"),
        ("120^{\\circ}", 120, False, "\\circ"),
        ("\\$6", 6, False, ""),
        ("-\\$6.50", Fraction(-13, 2), False, ""),
        ("198\\%", 198, True, ""),
        ("900,\\!000,\\!000", 900_000_000, False, ""),
        ("10{,}000", 10_000, False, ""),
        ("100\\text{ square units}", 100, False, "square units"),
        ("1.6 \\mathrm{~cm}", Fraction(8, 5), False, "cm"),
        ("12\\text{ cm}^2", 12, False, "cm^2"),
        ("\\dfrac{3}{50}", Fraction(3, 50), False, ""),
        ("\\frac{1}{2}\\text{ miles}", Fraction(1, 2), False, "miles"),
    ],
)
def test_a_number_is_read_as_answers_write_it(
    text: str, value: Fraction | int, percent: bool, unit: str
) -> None:
    assert quantity(text) == Quantity(Fraction(value), percent, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "4:30",
        "\\text{4:30 p.m.}",
        "1/0",
        "12 34",
        "1,00",
        "3 apples",
        "٣",
        "$",
        "%",
        "^\\circ",
    ],
)
def test_what_is_not_one_number_is_none(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("48^\\circ", "48", True),
        ("6", "\\$6", True),
        ("25\\%", "25", True),
        ("25\\%", "0.25", True),
        ("25\\%", "0.25%", False),
        ("25", "0.25", False),
        ("5\\text{ m}", "5\\text{ cm}", False),
        ("5\\text{ m}", "5", True),
    ],
)
def test_a_unit_that_is_not_written_is_no_other_unit(one: str, other: str, same: bool) -> None:
    first, second = quantity(one), quantity(other)
    assert first is not None
    assert second is not None
    assert first.same(second) is second.same(first) is same


@given(st.integers(-(10**12), 10**12))
def test_thousands_change_nothing(number: int) -> None:
    plain = quantity(str(number))
    assert plain is not None
    for mark in (",", "{,}", ",\\!"):
        assert quantity(f"{number:,}".replace(",", mark)) == plain

"""Regular expressions of requests: a short one must not take all of the memory."""

from __future__ import annotations

import pytest

from mcts_core.patterns import compiled


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{1,20}\.\d{1,20} [a-z]{2,30}",
        r"\(left: ([0-9/ ]+)\)$",
        r"(?:\d{1,3},){0,9}\d{1,3}",
        r"\p{Lu}{3}",
    ],
)
def test_usual_expressions_are_compiled(pattern: str) -> None:
    assert compiled(pattern).pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:(?:a?){500}){1000}",
        r"(?:(?:(?:a){30}){30}){30}",
        r"(?:a{4000,}){2}",
        r"(?:ab){,9999}",
        "(?x)(?:(?:a) {500}) {10 00}",
        "(?x)(?:a){9 # a comment\n999}",
        r"(?:a{999}){" + "9" * 200 + "}",
    ],
)
def test_expressions_that_would_be_written_out_at_length_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="copies"):
        compiled(pattern)


@pytest.mark.parametrize("pattern", ["(", "[", "a{3}{4}", "(?P<n>a)(?P<n"])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        compiled(pattern)

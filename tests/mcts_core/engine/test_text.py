"""What would break: a stop string or a step's end missed because tokens cut it, text shown that a
stop string would have taken back, or broken characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.engine.text import OptionText, StepRuleTooSlow
from mcts_core.search.work import Boundary


class Pieces:
    """A tokenizer whose token n is the n-th piece of a byte string, cut anywhere."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = list(pieces)

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")


texts = st.text(alphabet="ab\n é🙂.", min_size=1, max_size=30)


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A text, and its bytes cut into pieces anywhere, also inside characters."""
    text = draw(texts)
    data = text.encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=len(data))))
    edges = [0, *(at for at in cuts if at < len(data)), len(data)]
    return text, [data[a:b] for a, b in pairwise(edges)]


@given(cut(), st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3))
def test_whatever_the_tokens_the_text_ends_before_the_first_stop_string(
    text_and_pieces: tuple[str, list[bytes]], stops: list[str]
) -> None:
    text, pieces = text_and_pieces
    option = OptionText(Pieces(pieces), [], Boundary(), tuple(stops))
    shown = ""
    stopped = None
    for token in range(len(pieces)):
        stopped = option.feed(token)
        shown += option.release(final=stopped is not None)
        if stopped:
            break
    whole = option.finish()
    shown += option.release(final=True)
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    assert (stopped == "stop") == bool(found)
    assert whole == shown
    if found:
        # a token may complete several stop strings at once: the earliest of them cuts
        assert not any(stop in whole for stop in stops)
        assert text.startswith(whole)
    else:
        assert whole == text


@given(cut(), st.integers(0, 5))
def test_a_step_ends_with_the_token_that_completes_its_delimiter(
    text_and_pieces: tuple[str, list[bytes]], minimum: int
) -> None:
    text, pieces = text_and_pieces
    option = OptionText(Pieces(pieces), [], Boundary(strings=("\na",), min_tokens=1 + minimum), ())
    for token in range(len(pieces)):
        before = option.text
        if option.feed(token) == "step":
            assert "\na" in option.text
            assert token + 1 >= 1 + minimum
            assert minimum > 0 or "\na" not in before
            break
    else:
        assert minimum > 0 or "\na" not in text


def test_long_options_are_decoded_in_a_window_and_lose_nothing() -> None:
    pieces = [f" {n}".encode() for n in range(300)]
    option = OptionText(Pieces(pieces), [0, 1, 2], Boundary(), ("299",))
    ends = [option.feed(token) for token in range(3, 300)]
    assert ends.index("stop") == 296
    assert option.text == "".join(f" {n}" for n in range(3, 299)) + " "


def test_a_sentence_ends_by_its_regular_expression() -> None:
    pieces = [b"One", b" two", b".", b" Three"]
    option = OptionText(Pieces(pieces), [], Boundary(regex=r"[.!?]\s"), ())
    assert [option.feed(token) for token in range(4)] == [None, None, None, "step"]


def test_an_expression_that_backtracks_for_ever_is_given_up() -> None:
    pieces = [b"a" * 40 + b"!"]
    option = OptionText(Pieces(pieces), [], Boundary(regex=r"(a|aa|a?a)+$x|(a+a+)+b"), ())
    with pytest.raises(StepRuleTooSlow, match=r"step\.until\.regex"):
        option.feed(0)

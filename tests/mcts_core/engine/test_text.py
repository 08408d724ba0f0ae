"""What would break: a stop string or a step's end missed because tokens cut it, text shown that a
stop string would have taken back, or broken characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.engine.text import OptionText, StepRuleTooSlow, Written, read
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
    whole = option.finish(final=True).text
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


def written(
    pieces: Sequence[bytes], lengths: Sequence[int], stop: tuple[str, ...], prompt: int = 0
) -> tuple[str, list[Written]]:
    """The completion's text when its options have `lengths` tokens, the last all that is left."""
    decoder = Pieces(pieces)
    tail = max(map(len, stop), default=1) - 1
    whole, options, at = "", [], prompt
    for length in [*lengths, len(pieces)]:
        tokens = range(at, min(at + length, len(pieces)))
        if not tokens:
            break
        text = whole[len(whole) - min(tail, len(whole)) :]
        option = OptionText(decoder, range(at), Boundary(tokens=length), stop, tail=text)
        finish = next((end for end in map(option.feed, tokens) if end), None)
        at = tokens.stop
        own = option.finish(final=at == len(pieces))
        options.append(own)
        whole = whole[: len(whole) - own.cut] + own.text
        if finish == "stop":
            return whole, options
        assert own == read(decoder, range(tokens.start), tokens, final=at == len(pieces))
    return whole, options


@given(
    cut(),
    st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=8),
)
def test_however_options_are_cut_their_texts_join_to_the_text_of_all_tokens(
    text_and_pieces: tuple[str, list[bytes]], stops: list[str], lengths: list[int]
) -> None:
    text, pieces = text_and_pieces
    whole, options = written(pieces, lengths, tuple(stops))
    in_one, _ = written(pieces, (), tuple(stops))
    assert whole == in_one, "a stop string may begin in one option and end in the next"
    assert all("\ufffd" not in option.text for option in options)
    if not any(stop in text for stop in stops):
        assert whole == text


def test_a_stop_string_takes_back_what_earlier_options_said_of_it() -> None:
    whole, options = written([b"x E", b"N", b"D y"], (1, 1), ("END",))
    assert whole == "x "
    assert options == [Written("x E"), Written("N"), Written("", cut=2)]


def test_a_stop_string_does_not_begin_in_the_prompt() -> None:
    whole, _ = written([b"EN", b"D", b" y"], (1,), ("END",), prompt=1)
    assert whole == "D y"


def test_a_character_that_is_cut_belongs_to_the_option_that_ends_it() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    whole, options = written([b"a", first, second, b"b"], (2, 2), ())
    assert options == [Written("a", partial=True), Written("éb")]
    assert whole == "aéb"


def test_what_the_model_leaves_of_a_character_at_its_end_is_shown_as_that() -> None:
    decoder = Pieces([b"a", "é".encode()[:1]])
    assert read(decoder, (), (0, 1), final=True) == Written("a\ufffd")
    assert read(decoder, (), (0, 1), final=False) == Written("a", partial=True)


@pytest.mark.parametrize(
    "boundary", [Boundary(strings=("\n\n",)), Boundary(regex=r"\n\s*\n"), Boundary(regex=r"\n$")]
)
def test_a_step_that_was_cut_ends_where_it_would_have_ended_in_one(boundary: Boundary) -> None:
    decoder = Pieces([b"a\n", b"\n", b"b"])
    rest = OptionText(decoder, (0,), boundary, (), begun="a\n")
    assert rest.feed(1) == "step"
    fresh = OptionText(decoder, (0,), Boundary(strings=("\n\n",)), ())
    assert [fresh.feed(1), fresh.feed(2)] == [None, None], "what is over does not end another step"


def test_an_option_of_so_many_tokens_may_end_inside_a_character() -> None:
    decoder = Pieces(["é".encode()[:1], "é".encode()[1:], b"b"])
    option = OptionText(decoder, (), Boundary(tokens=1), ())
    assert option.feed(0) == "step"
    assert option.finish(final=False) == Written("", partial=True)

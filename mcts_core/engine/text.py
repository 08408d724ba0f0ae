"""The text of an option while it grows, token by token: where it ends, and what may be shown.

Token ids are the truth. A character or a stop string may begin in one option and end in the next:
the text of an option holds whole characters only, and joined texts are what all ids decode to.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, Protocol

import regex

from mcts_core.patterns import compiled, within
from mcts_core.search.work import Boundary
from mcts_core.stops import begun

CONTEXT_TOKENS = 16
"""Most tokens before the option that are looked at."""

_CONTEXT_TOKENS = 5
"""Tokens before the option that are decoded with it: some tokenizers drop a leading space."""

_WINDOW_TOKENS = 12
"""Most tokens that are decoded again for each new one."""

_INCOMPLETE = "\ufffd"
"""What a byte-level tokenizer decodes part of a character to."""

_REGEX_SECONDS = 0.02
"""An expression may backtrack for ever, and all requests wait for this thread."""


class StepRuleTooSlow(Exception):
    """A request's regular expression takes too long; the message names the field."""


class Decoder(Protocol):
    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Written:
    """The text of an option that is over; see `search.work.Option`."""

    text: str
    cut: int = 0
    partial: bool = False


class Reader:
    """Decodes the tokens after `before`, one by one, into whole characters."""

    __slots__ = ("_decoder", "_known", "_window", "rest")

    def __init__(self, decoder: Decoder, before: Sequence[int]) -> None:
        self._decoder = decoder
        self.rest = ""
        """What stands for the part of a character at the end; empty if there is none."""
        self._window, self._known = self._context(before)

    def copy(self) -> Reader:
        other = copy(self)
        other._window = list(self._window)
        return other

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that further tokens add."""
        self._window.extend(tokens)
        decoded = self._decoder.decode(self._window)
        whole = decoded.rstrip(_INCOMPLETE)
        text = whole[self._known :]
        self._known = max(self._known, len(whole))
        self.rest = decoded[self._known :]
        if len(self._window) > _WINDOW_TOKENS and len(whole) == len(decoded):
            self._window, self._known = self._context(self._window)
        return text

    def _context(self, before: Sequence[int]) -> tuple[list[int], int]:
        """So many of the last tokens that they do not begin inside a character, and the length of
        their text."""
        count = _CONTEXT_TOKENS
        while True:
            window = list(before[-count:])
            decoded = self._decoder.decode(window)
            if count >= min(len(before), CONTEXT_TOKENS) or not decoded.startswith(_INCOMPLETE):
                return window, len(decoded.rstrip(_INCOMPLETE))
            count += 1


def read(decoder: Decoder, before: Sequence[int], tokens: Sequence[int], *, final: bool) -> Written:
    """The text of an option whose tokens are all there; `final` if no other follows it."""
    reader = Reader(decoder, before)
    text, rest = reader.feed(tokens), reader.rest
    return Written(text + rest) if final else Written(text, partial=bool(rest))


class OptionText:
    """Decodes an option incrementally and says where its boundary or a stop string is met.

    A stop string may span tokens and options, and may begin inside a token: text that could still
    become a stop string is held back from a stream. A boundary may span tokens; it spans options
    where the one before was cut by its limit, so that its step goes on in this one.
    """

    def __init__(
        self,
        decoder: Decoder,
        before: Sequence[int],
        boundary: Boundary,
        stop: tuple[str, ...],
        *,
        tail: str = "",
        begun: str = "",
    ) -> None:
        """`before`: the tokens that the option continues. `tail`: the end of the completion's text
        so far, one character less than the longest stop string. `begun`: the text of the step that
        the option goes on with, if it does not begin one."""
        self._reader = Reader(decoder, before)
        self._boundary = boundary
        self._regex = None if boundary.regex is None else compiled(boundary.regex)
        self._stop = stop
        self._tail = tail
        self._begun = begun
        self._shown = 0
        self._stopped = False
        self._cut = 0
        self.count = 0
        self.text = ""
        """The option's text so far, whole characters only; ends before a stop string once met."""

    def copy(self) -> OptionText:
        """The text of another option that has gone the same way so far."""
        other = copy(self)
        other._reader = self._reader.copy()
        return other

    def feed(self, token: int) -> Literal["step", "stop"] | None:
        """One more token. Returns why the option ends here, if it does; a stop string goes before
        the step's own boundary."""
        self.count += 1
        before = len(self.text)
        new = self._reader.feed((token,))
        self.text += new
        if new and (found := self._found(self._stop, self._tail, before)):
            at = min(found)
            self.text = self.text[: max(0, at)]
            self._cut = max(0, -at)
            self._stopped = True
            return "stop"
        if self.count < self._boundary.min_tokens:
            return None
        if self._boundary.tokens:
            return "step" if self.count >= self._boundary.tokens else None
        if new and self._found(self._boundary.strings, self._begun, before):
            return "step"
        if new and self._regex is not None and self._matches(self._regex):
            return "step"
        return None

    def release(self, *, final: bool) -> str:
        """The text that may be shown by now and was not shown yet."""
        end = len(self.text) if final else len(self.text) - self._held_back()
        if end <= self._shown:
            return ""
        text = self.text[self._shown : end]
        self._shown = end
        return text

    def finish(self, *, final: bool) -> Written:
        """The whole option's text. When no other option follows (`final`), part of a character at
        its end counts, too: the model has left it so."""
        rest = "" if self._stopped else self._reader.rest
        if final and rest:
            self.text += rest
            self._stopped = True
            rest = ""
        return Written(self.text, self._cut, bool(rest))

    def _found(self, strings: Sequence[str], prefix: str, before: int) -> list[int]:
        """Where those of `strings` begin that end in the text from `before` on; below 0 in
        `prefix`, which is the text before the option."""
        found: list[int] = []
        for string in strings:
            start = max(-len(prefix), before - len(string) + 1)
            text = self.text[start:] if start >= 0 else prefix[start:] + self.text
            at = text.find(string)
            if at >= 0:
                found.append(start + at)
        return found

    def _matches(self, pattern: regex.Pattern[str]) -> bool:
        """Whether the expression matches the step so far, and not already without this option."""
        text, begun = self._begun + self.text, len(self._begun)

        def found(timeout: float) -> bool:
            matches = pattern.finditer(text, timeout=timeout)
            return any(match.end() > begun for match in matches)

        try:
            return within(_REGEX_SECONDS, found)
        except TimeoutError:
            message = f"search.step.until.regex took more than {_REGEX_SECONDS} s on one option"
            raise StepRuleTooSlow(message) from None

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        return min(begun(self._tail + self.text, self._stop), len(self.text))

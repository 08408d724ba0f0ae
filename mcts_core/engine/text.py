"""The text of an option while it grows, token by token: where it ends, and what may be shown."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal, Protocol

import regex

from mcts_core.search.work import Boundary

_CONTEXT_TOKENS = 5
"""Tokens before the option that are decoded with it: some tokenizers drop a leading space."""

_WINDOW_TOKENS = 24
"""Most tokens that are decoded again for each new one."""

_INCOMPLETE = "\ufffd"
"""What a byte-level tokenizer decodes part of a character to."""


_REGEX_SECONDS = 0.02
"""An expression may backtrack for ever, and all requests wait for this thread."""


class StepRuleTooSlow(Exception):
    """A request's regular expression takes too long; the message names the field."""


class Decoder(Protocol):
    def decode(self, tokens: Sequence[int]) -> str: ...


class OptionText:
    """Decodes an option incrementally and says where its boundary or a stop string is met.

    A stop string may span tokens, and may begin inside one: text that could still become a stop
    string is held back from a stream. A boundary string may span tokens, too.
    """

    def __init__(
        self,
        decoder: Decoder,
        before: Sequence[int],
        boundary: Boundary,
        stop: tuple[str, ...],
    ) -> None:
        self._decoder = decoder
        self._window = list(before[-_CONTEXT_TOKENS:])
        self._known = len(decoder.decode(self._window))
        self._boundary = boundary
        self._regex = None if boundary.regex is None else regex.compile(boundary.regex)
        self._stop = stop
        self._longest = max((len(text) for text in (*stop, *boundary.strings)), default=1)
        self._shown = 0
        self._stopped = False
        self.count = 0
        self.text = ""
        """The option's text so far, whole characters only; ends before a stop string once met."""

    def copy(self) -> OptionText:
        """The text of another option that has gone the same way so far."""
        other = copy(self)
        other._window = list(self._window)
        return other

    def feed(self, token: int) -> Literal["step", "stop"] | None:
        """One more token. Returns why the option ends here, if it does; a stop string goes before
        the step's own boundary."""
        self._window.append(token)
        self.count += 1
        before = len(self.text)
        if not self._decode():
            return None
        since = max(0, before - self._longest + 1)
        found = [at for at in (self.text.find(text, since) for text in self._stop) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self._stopped = True
            return "stop"
        if self.count < self._boundary.min_tokens:
            return None
        if self._boundary.every_token:
            return "step"
        if any(self.text.find(text, since) >= 0 for text in self._boundary.strings):
            return "step"
        if self._regex is not None and self._matches(self._regex):
            return "step"
        return None

    def _matches(self, pattern: regex.Pattern[str]) -> bool:
        try:
            return pattern.search(self.text, timeout=_REGEX_SECONDS) is not None
        except TimeoutError:
            message = f"search.step.until.regex took more than {_REGEX_SECONDS} s on one option"
            raise StepRuleTooSlow(message) from None

    def release(self, *, final: bool) -> str:
        """The text that may be shown by now and was not shown yet."""
        end = len(self.text) if final else len(self.text) - self._held_back()
        if end <= self._shown:
            return ""
        text = self.text[self._shown : end]
        self._shown = end
        return text

    def finish(self) -> str:
        """The whole option's text, a cut character at its end included."""
        if not self._stopped:
            decoded = self._decoder.decode(self._window)
            self.text += decoded[self._known :]
            self._known = len(decoded)
        return self.text

    def _decode(self) -> bool:
        """Takes over the newest token's text; False while it ends inside a character."""
        decoded = self._decoder.decode(self._window)
        if decoded.endswith(_INCOMPLETE):
            return False
        self.text += decoded[self._known :]
        self._known = len(decoded)
        if len(self._window) > _WINDOW_TOKENS:
            self._window = self._window[-_CONTEXT_TOKENS:]
            self._known = len(self._decoder.decode(self._window))
        return True

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            tail = self.text[-length:]
            if any(text.startswith(tail) for text in self._stop):
                return length
        return 0

"""How answers are put into OpenAI's two forms: text completions and chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel

from mcts_core.search.work import TokenLogprob
from server import __version__
from server.generation import Answer
from server.responses import SearchProgress, SearchReport

FINGERPRINT = f"mcts-serve-{__version__}"
"""OpenAI's `system_fingerprint`: the same seed gives the same answer for the same one."""


class Form(Protocol):
    """Makes the bodies of one request's answer. `index` is a choice's: prompt-major."""

    def whole(self, answers: Sequence[Answer]) -> BaseModel:
        """The answer in one piece; `answers` in the prompts' order."""

    def opening(self, index: int) -> BaseModel | None:
        """The chunk that comes before a choice's text, if there is one."""

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> BaseModel:
        """A chunk with some of a choice's text."""

    def progress(self, index: int, progress: SearchProgress) -> BaseModel:
        """A chunk without text that says how far a search is; `index`: its first choice's."""

    def closing(
        self, index: int, reason: Literal["stop", "length"], report: SearchReport | None
    ) -> BaseModel:
        """A choice's last chunk; `report` goes with the last choice of a search."""

    def usage(self, answers: Sequence[Answer]) -> BaseModel:
        """The chunk after all choices, for those who asked for it."""

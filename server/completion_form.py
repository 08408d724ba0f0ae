"""The bodies of `POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mcts_core.query import Tokenizer
from mcts_core.search.search import Trajectory
from mcts_core.search.work import TokenLogprob
from server.form import FINGERPRINT
from server.generation import Answer, usage
from server.logprobs import completion_logprobs
from server.plan import Plan
from server.responses import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    SearchProgress,
    SearchReport,
)


class CompletionForm:
    """Text completions of one plan.

    With one prompt the search's report stands at the top. With several, each is a search of its
    own, and every choice carries the report of its prompt's.
    """

    def __init__(self, plan: Plan, tokenizer: Tokenizer) -> None:
        self._plan = plan
        self._tokenizer = tokenizer
        self._choices_each = plan.queries[0].n
        self._offsets: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer]) -> Completion:
        choices = [
            self._choice(answer, rank, trajectory)
            for answer in answers
            for rank, trajectory in enumerate(answer.trajectories)
        ]
        extra: dict[str, Any] = {"usage": usage(self._plan, answers)}
        if not self._several:
            extra["search"] = answers[0].report
        return self._body(choices, **extra)

    def opening(self, index: int) -> Completion | None:
        echo = self._echo(index // self._choices_each)
        return self.text(index, echo, ()) if echo else None

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> Completion:
        named = None
        if self._plan.logprobs and logprobs:
            named = completion_logprobs(self._tokenizer, logprobs, self._offsets.get(index, 0))
            if named.tokens:
                self._offsets[index] = named.text_offset[-1] + len(named.tokens[-1])
        choice = CompletionChoice(index=index, text=text, logprobs=named, finish_reason=None)
        return self._body([choice])

    def progress(self, index: int, progress: SearchProgress) -> Completion:
        return self._bare(index, None, progress)

    def closing(
        self, index: int, reason: Literal["stop", "length"], report: SearchReport | None
    ) -> Completion:
        return self._bare(index, reason, report)

    def usage(self, answers: Sequence[Answer]) -> Completion:
        return self._body([], usage=usage(self._plan, answers))

    def _bare(
        self,
        index: int,
        reason: Literal["stop", "length"] | None,
        search: SearchReport | SearchProgress | None,
    ) -> Completion:
        """A chunk without text."""
        extra: dict[str, Any] = {} if search is None else {"search": search}
        inner, outer = (extra, {}) if self._several else ({}, extra)
        choice = CompletionChoice(
            index=index, text="", logprobs=None, finish_reason=reason, **inner
        )
        return self._body([choice], **outer)

    @property
    def _several(self) -> bool:
        return len(self._plan.queries) > 1

    def _echo(self, prompt: int) -> str:
        return self._plan.echoes[prompt] if self._plan.echoes else ""

    def _choice(self, answer: Answer, rank: int, trajectory: Trajectory) -> CompletionChoice:
        named: CompletionLogprobs | None = None
        if self._plan.logprobs:
            named = completion_logprobs(self._tokenizer, trajectory.logprobs)
        extra: dict[str, Any] = {"search": answer.report} if self._several else {}
        return CompletionChoice(
            index=answer.prompt * self._choices_each + rank,
            text=self._echo(answer.prompt) + trajectory.text,
            logprobs=named,
            finish_reason=trajectory.finish_reason,
            **extra,
        )

    def _body(self, choices: list[CompletionChoice], **extra: Any) -> Completion:
        if self._plan.include_usage:
            # OpenAI's chunks then all have the field: null in all but the last.
            extra.setdefault("usage", None)
        return Completion(
            id=self._plan.id,
            object="text_completion",
            created=self._plan.created,
            model=self._plan.model,
            system_fingerprint=FINGERPRINT,
            choices=choices,
            **extra,
        )

"""The bodies of `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mcts_core.query import Tokenizer
from mcts_core.search.work import TokenLogprob
from server.form import FINGERPRINT
from server.generation import Answer, usage
from server.logprobs import chat_logprobs
from server.plan import Plan
from server.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    SearchProgress,
    SearchReport,
)


class ChatForm:
    """Chat completions of one plan, which has one prompt: the conversation."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer) -> None:
        self._plan = plan
        self._tokenizer = tokenizer

    def whole(self, answers: Sequence[Answer]) -> ChatCompletion:
        (answer,) = answers
        return ChatCompletion(
            id=self._plan.id,
            object="chat.completion",
            created=self._plan.created,
            model=self._plan.model,
            system_fingerprint=FINGERPRINT,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role="assistant", content=each.text, refusal=None),
                    logprobs=self._logprobs(each.logprobs),
                    finish_reason=each.finish_reason,
                )
                for index, each in enumerate(answer.trajectories)
            ],
            usage=usage(self._plan, answers),
            search=answer.report,
        )

    def opening(self, index: int) -> ChatChunk:
        return self._chunk(index, ChatDelta(role="assistant", content=""))

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> ChatChunk:
        return self._chunk(index, ChatDelta(content=text), logprobs=self._logprobs(logprobs))

    def progress(self, index: int, progress: SearchProgress) -> ChatChunk:
        return self._chunk(index, ChatDelta(), search=progress)

    def closing(
        self, index: int, reason: Literal["stop", "length"], report: SearchReport | None
    ) -> ChatChunk:
        extra: dict[str, Any] = {} if report is None else {"search": report}
        return self._chunk(index, ChatDelta(), reason=reason, **extra)

    def usage(self, answers: Sequence[Answer]) -> ChatChunk:
        return self._body([], usage=usage(self._plan, answers))

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return chat_logprobs(self._tokenizer, logprobs) if self._plan.logprobs else None

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        logprobs: ChatLogprobs | None = None,
        reason: Literal["stop", "length"] | None = None,
        **extra: Any,
    ) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)
        return self._body([choice], **extra)

    def _body(self, choices: list[ChatChunkChoice], **extra: Any) -> ChatChunk:
        if self._plan.include_usage:
            # OpenAI's chunks then all have the field: null in all but the last.
            extra.setdefault("usage", None)
        return ChatChunk(
            id=self._plan.id,
            object="chat.completion.chunk",
            created=self._plan.created,
            model=self._plan.model,
            system_fingerprint=FINGERPRINT,
            choices=choices,
            **extra,
        )

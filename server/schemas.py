"""The request bodies: OpenAI's fields with OpenAI's meaning, vLLM's common extras, `search`.

Source of the fields: OpenAI's API specification 2.3.0. Unknown top-level fields are ignored, as
they are by every server of this API; unknown fields inside `search` are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from mcts_core.search.parameters import SearchParameters


def _said(message: str) -> WrapValidator:
    """One plain sentence in place of a fault for each member of a union."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValueError:
            raise PydanticCustomError("unfit", "{expected}", {"expected": message}) from None

    return WrapValidator(validate)


def _strings(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


TokenId = Annotated[StrictInt, Field(ge=0)]
Prompt = Annotated[
    str | list[str] | list[TokenId] | list[list[TokenId]],
    _said("give a string, a list of strings, a list of token ids or a list of such lists"),
]
StopString = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    tuple[StopString, ...],
    Field(max_length=4),
    BeforeValidator(_strings),
    _said("give a string or a list of up to 4 strings, none of them empty"),
]


class StreamOptions(BaseModel):
    """`include_usage` asks for one last chunk with the usage and no choices."""

    include_usage: bool | None = None


class ResponseFormat(BaseModel):
    """Only plain text can be asked for."""

    type: Literal["text"]


class GenerationRequest(BaseModel):
    """The fields that both completions and chat completions have."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    """`NAME` (its preset) or `NAME:METHOD`."""
    n: Annotated[int, Field(ge=1)] = 1
    """The n best distinct trajectories of the one search; independent samples for `sample`."""
    stop: Stop = ()
    """A trajectory ends before any of these."""
    seed: int | None = None
    """Makes the search repeatable; drawn at random when absent."""
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    """Lower numbers are handled earlier (vLLM's field); it never changes a result."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Only requests with the same salt share the KV of what their prompts have in common (vLLM's
    field)."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of `sample`; for the searches it stands in for `search.temperature`; `greedy` ignores it."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 0
    """0 or -1 keeps all (vLLM's field)."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """vLLM's field; like `temperature`, of `sample`, and in place of `search.min_p`."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    """vLLM's field."""
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)
    ] = {}
    """By token id, written as a string, as JSON wants it."""
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    user: str | None = None
    """Taken and not used."""
    search: SearchParameters | None = None
    """What the search may do; every field falls back to the model's preset."""

    @field_validator(
        "n",
        "priority",
        "stream",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        mode="before",
    )
    @classmethod
    def _null_is_absent(cls, value: Any, info: Any) -> Any:
        """OpenAI's fields are nullable: null means the default."""
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if not key.isdecimal() or len(key) > 10:
                raise ValueError(f"'{key[:20]}' is not a token id")
        return value


class CompletionRequest(GenerationRequest):
    """The body of `POST /v1/completions`."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Limit of the completion's tokens. Absent: as much as the context and the server allow, and
    not OpenAI's 16, which would cut most searched answers."""
    best_of: Annotated[int, Field(ge=1)] | None = None
    """Without `search`, more than `n`: method best_of_n with so many samples."""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None


class TextPart(BaseModel):
    """A part of a message; text is the only kind that is read."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation; other fields, such as `name`, are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str | list[TextPart], _said("give a string or a list of {type: 'text', text} parts")
    ]

    @property
    def plain(self) -> dict[str, str]:
        """As a chat template reads it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "".join(part.text for part in self.content)}


class ChatRequest(GenerationRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`, which goes before it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None

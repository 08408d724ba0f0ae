"""`usage.prompt_tokens_details.cached_tokens`, as the openai client reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types import CompletionUsage

LONG = "Use 4 9 10 13 to make 24.\n" * 6


def completion(client: openai.OpenAI, salt: str, prompt: Any = LONG) -> CompletionUsage:
    answer = client.completions.create(
        model="demo:greedy", prompt=prompt, max_tokens=3, extra_body={"cache_salt": salt}
    )
    assert answer.usage is not None
    return answer.usage


def streamed_completion(client: openai.OpenAI, salt: str) -> CompletionUsage:
    *_, last = client.completions.create(
        model="demo:greedy",
        prompt=LONG,
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"cache_salt": salt},
    )
    assert last.usage is not None
    return last.usage


def chat(client: openai.OpenAI, salt: str) -> CompletionUsage:
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": LONG}],
        max_tokens=3,
        extra_body={"cache_salt": salt},
    )
    assert answer.usage is not None
    return answer.usage


def streamed_chat(client: openai.OpenAI, salt: str) -> CompletionUsage:
    *_, last = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": LONG}],
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"cache_salt": salt},
    )
    assert last.usage is not None
    return last.usage


def cached(usage: CompletionUsage) -> int:
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    return usage.prompt_tokens_details.cached_tokens


@pytest.mark.parametrize("ask", [completion, streamed_completion, chat, streamed_chat])
def test_what_an_earlier_prompt_left_is_counted(
    client: openai.OpenAI, ask: Callable[[openai.OpenAI, str], CompletionUsage]
) -> None:
    """A tree forks its prompt again and again; the prompt's tokens are counted once all the same,
    and the last of them is always computed."""
    salt = ask.__name__
    usage = ask(client, salt)
    assert cached(usage) == 0
    whole = (usage.prompt_tokens - 1) // 16 * 16
    assert whole >= 32, "the prompt should have several blocks"
    assert cached(ask(client, salt)) == cached(ask(client, salt)) == whole
    assert cached(ask(client, f"not {salt}")) == 0, "of the same salt only"


def test_only_what_the_prompts_have_in_common_is_cached(client: openai.OpenAI) -> None:
    first = completion(client, "common", [5] * 40 + [6] * 40)
    assert (first.prompt_tokens, cached(first)) == (80, 0)
    assert cached(completion(client, "common", [5] * 40 + [7] * 40)) == 32
    assert cached(completion(client, "common", [5] * 48)) == 32
    assert cached(completion(client, "common", [5] * 32)) == 16
    assert cached(completion(client, "common", [8] * 40)) == 0


def test_the_prompts_of_one_request_are_summed(client: openai.OpenAI) -> None:
    prompts = [[5] * 40, [6] * 70]
    for prompt in prompts:
        completion(client, "sum", prompt)
    usage = completion(client, "sum", [*prompts, [7] * 30])
    assert (usage.prompt_tokens, cached(usage)) == (140, 32 + 64)

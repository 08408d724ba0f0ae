"""`POST /v1/chat/completions`, asked by the real openai client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.server.conftest import PUZZLE, check_search


def ask(client: openai.OpenAI, content: Any = PUZZLE, **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": content}]
    return client.chat.completions.create(**{"model": "demo", "messages": messages} | fields)


def test_the_users_message_is_the_prompt(client: openai.OpenAI) -> None:
    answer = ask(client, seed=3)
    assert answer.object == "chat.completion"
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert choice.message.content.splitlines()[-1].startswith("Answer: ")
    check_search(answer.search)
    plain = client.completions.create(model="demo", prompt=PUZZLE, seed=3)
    assert choice.message.content == plain.choices[0].text
    assert plain.usage is not None
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, name) == getattr(plain.usage, name)


def test_text_parts_and_developers_are_understood(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Use 4 9 10 13 "}, {"type": "text", "text": "to make 24."}]
    messages: Any = [
        {"role": "developer", "content": "Solve the puzzle.", "name": "me"},
        {"role": "user", "content": parts},
    ]
    answer = client.chat.completions.create(model="demo:greedy", messages=messages)
    assert (
        answer.choices[0].message.content
        == ask(client, model="demo:greedy").choices[0].message.content
    )


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_cut(client: openai.OpenAI, name: str) -> None:
    answer = ask(client, model="demo:greedy", **{name: 4})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def test_logprobs_have_bytes_and_alternatives(client: openai.OpenAI) -> None:
    answer = ask(client, model="demo:greedy", logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert bytes(token.bytes).decode() == token.token
        assert len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token == token.token  # greedy: the likeliest
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-4)
    assert ask(client, model="demo:greedy", logprobs=True).choices[0].logprobs.content[0]
    assert ask(client, model="demo:greedy").choices[0].logprobs is None


def test_n_gives_choices_of_one_search(client: openai.OpenAI) -> None:
    answer = ask(client, n=2, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len({choice.message.content for choice in answer.choices}) == 2


def test_harmless_openai_fields_are_taken(client: openai.OpenAI) -> None:
    answer = ask(
        client,
        model="demo:greedy",
        response_format={"type": "text"},
        tool_choice="none",
        store=False,
        metadata={"a": "b"},
    )
    assert answer.choices[0].message.content

"""`POST /v1/completions`, asked by the real openai client."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import PUZZLE, check_search, without_times


def test_the_default_answer_is_searched_whole_and_reported(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PUZZLE)
    assert answer.object == "text_completion"
    assert answer.model == "demo"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.text.splitlines()[-1].startswith("Answer: ")
    report: Any = answer.model_extra and answer.model_extra["search"]
    check_search(report)
    assert report["method"] == "mcts"
    assert report["simulations"] > 1
    assert report["scores"].keys() == {"value", "prm", "orm"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == report["tokens"]["returned"]
    assert answer.usage.prompt_tokens > 0
    total = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.total_tokens == total
    assert answer.system_fingerprint


def test_the_client_can_validate_answers_strictly(http: httpx.Client) -> None:
    with openai.OpenAI(
        base_url=str(http.base_url.join("/v1")), api_key="none", _strict_response_validation=True
    ) as client:
        client.completions.create(model="demo:greedy", prompt=PUZZLE, logprobs=2)
        client.chat.completions.create(
            model="demo:greedy",
            messages=[{"role": "user", "content": PUZZLE}],
            logprobs=True,
            top_logprobs=2,
        )
        client.models.list()


@pytest.mark.parametrize("method", ["mcts", "beam", "best_of_n", "sample", "greedy"])
def test_each_method_can_be_asked_for_by_name_and_by_search(
    client: openai.OpenAI, method: str
) -> None:
    by_name = client.completions.create(model=f"demo:{method}", prompt=PUZZLE, seed=3)
    by_field = client.completions.create(
        model="demo", prompt=PUZZLE, seed=3, extra_body={"search": {"method": method}}
    )
    reports: Any = [answer.model_extra["search"] for answer in (by_name, by_field)]  # type: ignore[index]
    for report in reports:
        check_search(report)
        assert report["requested_method"] == method
    assert without_times(reports[0]) == without_times(reports[1])
    assert by_name.choices == by_field.choices
    assert by_name.model == f"demo:{method}"


def test_n_gives_distinct_trajectories_of_one_search(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PUZZLE, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == answer.search["tokens"]["returned"]  # type: ignore[attr-defined]


def test_n_samples_are_independent_and_all_there(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo:sample", prompt=PUZZLE, n=4, temperature=0)
    assert len(answer.choices) == 4
    assert len({choice.text for choice in answer.choices}) == 1


def test_best_of_draws_samples_and_returns_the_best(client: openai.OpenAI) -> None:
    answer: Any = client.completions.create(model="demo", prompt=PUZZLE, best_of=5, n=2, seed=4)
    assert answer.search["method"] == "best_of_n"
    assert answer.search["simulations"] == 5
    assert 1 <= len(answer.choices) <= 2
    spelled_out: Any = client.completions.create(model="demo", prompt=PUZZLE, best_of=1)
    assert spelled_out.search["method"] == "mcts"


def test_prompts_are_searched_one_by_one_and_answered_in_order(client: openai.OpenAI) -> None:
    other = "Use 1 2 3 4 to make 24.\n"
    answer: Any = client.completions.create(
        model="demo:greedy", prompt=[PUZZLE, other], echo=True, n=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text.startswith(PUZZLE)
    assert answer.choices[1].text.startswith(other)
    assert "search" not in answer.model_extra
    reports = [choice.model_extra["search"] for choice in answer.choices]
    for report in reports:
        check_search(report)
    returned = sum(report["tokens"]["returned"] for report in reports)
    assert answer.usage.completion_tokens == returned
    alone = client.completions.create(model="demo:greedy", prompt=other)
    assert answer.choices[1].text == other + alone.choices[0].text


def test_token_ids_are_a_prompt(client: openai.OpenAI) -> None:
    text = client.completions.create(model="demo:greedy", prompt=PUZZLE)
    logged = client.completions.create(model="demo:greedy", prompt=[279, 290], max_tokens=2)
    several = client.completions.create(model="demo:greedy", prompt=[[279, 290]], max_tokens=2)
    assert logged.choices[0].text == several.choices[0].text
    assert text.usage is not None
    assert logged.usage is not None
    assert logged.usage.prompt_tokens == 2


def test_max_tokens_cuts_and_says_so(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo:greedy", prompt=PUZZLE, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize("model", ["demo", "demo:greedy"])
def test_a_stop_string_ends_the_text_before_itself(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=PUZZLE, stop=["Answer", "\nAns"])
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert "Ans" not in choice.text
    assert "left:" in choice.text


def test_logprobs_are_parallel_lists_that_spell_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=PUZZLE, logprobs=3, seed=2)
    (choice,) = answer.choices
    logged = choice.logprobs
    assert logged is not None
    assert logged.tokens is not None
    assert logged.token_logprobs is not None
    assert logged.top_logprobs is not None
    assert logged.text_offset is not None
    lengths = {
        len(each)
        for each in (
            logged.tokens,
            logged.token_logprobs,
            logged.top_logprobs,
            logged.text_offset,
        )
    }
    assert answer.usage is not None
    assert lengths == {answer.usage.completion_tokens}
    assert "".join(logged.tokens).startswith(choice.text)
    for token, offset in zip(logged.tokens, logged.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] in (token, "")
    for token, value, top in zip(
        logged.tokens, logged.token_logprobs, logged.top_logprobs, strict=True
    ):
        assert value <= 0
        assert top[token] == pytest.approx(value, abs=1e-4)
        assert 3 <= len(top) <= 4


def test_temperature_drives_the_samples_and_greedy_ignores_it(client: openai.OpenAI) -> None:
    def texts(model: str, **fields: Any) -> set[str]:
        answer = client.completions.create(model=model, prompt=PUZZLE, n=6, seed=5, **fields)
        return {choice.text for choice in answer.choices}

    cold = client.completions.create(model="demo:sample", prompt=PUZZLE, temperature=0)
    greedy = client.completions.create(model="demo:greedy", prompt=PUZZLE, temperature=2)
    assert cold.choices[0].text == greedy.choices[0].text
    assert len(texts("demo:sample", temperature=1.5)) > 1


def test_a_bias_changes_what_is_drawn(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="demo:greedy", prompt=PUZZLE, logprobs=1)
    logged: Any = plain.choices[0].logprobs
    biased = client.completions.create(
        model="demo:greedy", prompt=PUZZLE, max_tokens=1, logit_bias={"279": 100}
    )
    assert biased.choices[0].text == "Use"
    assert logged.tokens[0] != "Use"


def test_candidates_and_root_are_there_when_asked_for(client: openai.OpenAI) -> None:
    answer: Any = client.completions.create(
        model="demo", prompt=PUZZLE, extra_body={"search": {"include": ["candidates", "root"]}}
    )
    report = answer.search
    assert report["candidates"][0]["text"] == answer.choices[0].text
    assert report["candidates"][0]["score"] == report["score"]
    scores = [each["score"] for each in report["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert all(option["text"] for option in report["root"])


@pytest.mark.parametrize(
    ("reason", "budget"),
    [
        ("simulations", {"simulations": 40, "tokens": 5000}),
        ("tokens", {"simulations": 1000, "tokens": 700}),
        ("nodes", {"simulations": 1000, "tokens": 5000, "nodes": 40}),
    ],
)
def test_a_budget_ends_the_search_and_is_named(
    client: openai.OpenAI, reason: str, budget: dict[str, int]
) -> None:
    answer: Any = client.completions.create(
        model="demo",
        prompt=PUZZLE,
        seed=9,
        extra_body={"search": {"budget": budget, "stop_when": {"converged": False, "score": None}}},
    )
    report = answer.search
    assert report["stop_reason"] == reason
    if report["fallback"] is None:
        counted = report["tokens"]["spent"] if reason == "tokens" else report[reason]
        # A search ends when the next option would break the limit, at the mean cost of options.
        assert budget[reason] * 0.9 <= counted < budget[reason] * 1.5


def test_a_deadline_still_gives_an_answer(client: openai.OpenAI) -> None:
    budget = {"simulations": 2000, "tokens": 100_000, "deadline_ms": 1000}
    answer: Any = client.completions.create(
        model="demo",
        prompt=PUZZLE,
        extra_body={"search": {"budget": budget, "stop_when": {"converged": False, "score": 2}}},
    )
    assert answer.search["stop_reason"] in ("deadline", "exhausted")
    assert answer.choices[0].text
    assert answer.search["time_ms"]["search"] < 3000


def test_a_deadline_before_anything_is_found_is_not_tried_again(http: httpx.Client) -> None:
    search = {"budget": {"deadline_ms": 0.001}}
    response = http.post(
        "/v1/completions", json={"model": "demo", "prompt": PUZZLE, "search": search}
    )
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false"


def test_unknown_top_level_fields_and_nulls_are_ignored(http: httpx.Client) -> None:
    nulls = (
        "max_tokens n stop seed logprobs stream temperature suffix echo best_of user search top_p "
        "logit_bias stream_options"
    )
    body = dict.fromkeys(nulls.split())
    response = http.post(
        "/v1/completions",
        json={"model": "demo:greedy", "prompt": PUZZLE, "flavour": "mint", **body},
    )
    assert response.status_code == 200, response.text


def test_vllms_extra_fields_are_taken(client: openai.OpenAI) -> None:
    greedy = client.completions.create(model="demo:greedy", prompt=PUZZLE)
    answer = client.completions.create(
        model="demo:sample",
        prompt=PUZZLE,
        extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0},
    )
    assert answer.choices[0].text == greedy.choices[0].text

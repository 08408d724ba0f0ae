"""What would break: options that are not what the request says they are."""

from __future__ import annotations

import re
from math import exp
from typing import Any

import httpx
import pytest

from tests.server.conftest import PUZZLE, Body

ACTIONS = [
    "13 - 9 = 4 (left: 4 4 10)\n",
    "10 - 4 = 6 (left: 6 9 13)\n",
    "9 + 13 = 22 (left: 4 10 22)\n",
    "4 * 9 = 36 (left: 10 13 36)\n",
]
LEFT = {"regex": r"\(left: ([0-9/ ]+)\)$"}


def ask(http: httpx.Client, search: Body, status: int = 200, **fields: Any) -> Body:
    body = {"model": "demo", "prompt": PUZZLE, "seed": 1, "search": search, **fields}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == status, answer.text
    found: Body = answer.json()
    return found


@pytest.mark.parametrize(
    "method", ["mcts", "beam", "dvts", "best_first", "sample", "greedy", "best_of_n"]
)
def test_every_option_is_one_of_the_actions(http: httpx.Client, method: str) -> None:
    search = {"method": method, "actions": ACTIONS, "max_depth": 2, "include": ["tree"]}
    answer = ask(http, search)
    choice = answer["choices"][0]
    lines = choice["text"].splitlines(keepends=True)
    assert len(lines) == 2
    assert set(lines) <= set(ACTIONS)
    assert choice["finish_reason"] == "stop", "a trajectory of max_depth actions is finished"
    assert answer["search"]["fallback"] is None
    for node in answer["search"]["tree"][1:]:
        assert set(node["text"].splitlines(keepends=True)) <= set(ACTIONS)


def test_rollouts_keep_to_the_actions(http: httpx.Client) -> None:
    search = {
        "actions": ACTIONS,
        "max_depth": 3,
        "critics": {"orm": 1.0},
        "rollouts": {"count": 2},
        "budget": {"simulations": 16},
        "include": ["tree"],
    }
    answer = ask(http, search)["search"]
    assert answer["tokens"]["rollout"]["computed"] > 0
    unfinished = [node for node in answer["tree"][1:] if node["end"] is None]
    assert len(unfinished) > 4
    assert all("orm" in node["scores"] for node in unfinished)


def test_priors_of_actions_are_the_policys_whole_probabilities(http: httpx.Client) -> None:
    search = {"actions": ACTIONS, "max_depth": 1, "include": ["root"]}
    answer = ask(http, search, n=len(ACTIONS), logprobs=0)
    own = {
        choice["text"]: exp(sum(choice["logprobs"]["token_logprobs"]))
        for choice in answer["choices"]
    }
    assert set(own) == set(ACTIONS)
    priors = {option["text"]: option["prior"] for option in answer["search"]["root"]}
    for text, probability in own.items():
        assert priors[text] == pytest.approx(probability / sum(own.values()), rel=1e-4)
    tokens = answer["search"]["tokens"]
    assert tokens["policy"]["computed"] < tokens["returned"] + 30, "computed once, with the prompt"


@pytest.mark.parametrize(
    ("search", "param", "message"),
    [
        ({"actions": []}, "search.actions", "at least 1"),
        ({"actions": ["a\n", "b\n", "a\n"]}, "search.actions", "twice"),
        ({"actions": ["4 - 1", "4"]}, "search.actions.1", "begins with the tokens"),
        ({"actions": [""]}, "search.actions.0", "at least 1"),
        ({"actions": ACTIONS, "step": {"until": "token"}}, "search.step", "leave 'step' out"),
        (
            {"step": {"until": {"strings": []}}},
            "search.step.until.strings",
            "at least one string",
        ),
        ({"step": {"until": {"strings": ["a"], "tokens": 2}}}, "search.step.until", "give one of"),
        ({"merge": {"state": {"regex": "("}}}, "search.merge.state.regex", "regular expression"),
        ({"backup": "median"}, "search.backup", "max"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    http: httpx.Client, search: Body, param: str, message: str
) -> None:
    error = ask(http, search, 400)["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_options_have_the_length_that_the_step_says(http: httpx.Client) -> None:
    search = {"step": {"until": {"tokens": 5}}, "include": ["tree"], "max_depth": 64}
    answer = ask(http, search)
    tree = answer["search"]["tree"]
    assert all(node["tokens"] == 5 for node in tree[1:] if node["end"] is None)
    assert any(node["end"] == "stop" for node in tree)


def test_a_stop_string_across_options_ends_the_text_before_it(http: httpx.Client) -> None:
    whole = ask(http, {"method": "greedy"})["choices"][0]["text"]
    stop = whole[whole.index("\n") - 2 : whole.index("\n") + 3]
    search = {"step": {"until": "token"}, "max_depth": 400, "budget": {"simulations": 40}}
    answer = ask(http, {**search, "width": {"root": [1, 1], "inner": [1, 1]}}, stop=[stop])
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("method", ["mcts", "beam", "best_first"])
def test_states_that_are_declared_the_same_are_grown_once(http: httpx.Client, method: str) -> None:
    search = {
        "method": method,
        "step": {"until": "newline"},
        "merge": {"state": LEFT},
        "stop_when": {"score": None, "converged": False},
        "fallback": [],
        "include": ["tree"],
    }
    tree = ask(http, search)["search"]["tree"]
    states = [
        (node["depth"], found[1])
        for node in tree
        if node["end"] is None and (found := re.search(LEFT["regex"], node["text"]))
    ]
    assert len(states) > 20
    assert len(states) == len(set(states))
    assert sum(node["merged"] for node in tree) > 0


@pytest.mark.parametrize(
    "search",
    [
        {"merge": {"by": "embedding", "threshold": 0.02}},
        {"merge": {"state": LEFT}, "backup": "max"},
        {"actions": ACTIONS, "max_depth": 3},
        {"actions": ACTIONS, "max_depth": 3, "rollouts": {"count": 2}},
    ],
)
def test_the_same_seed_gives_the_same_tree(http: httpx.Client, search: Body) -> None:
    asked = {**search, "include": ["tree"], "budget": {"simulations": 24}}
    first, second = (ask(http, asked)["search"] for _ in range(2))
    for search in (first, second):
        times = [node.pop("time_ms") for node in search["tree"]]
        assert times == sorted(times), "nodes are numbered as they were made"
        assert 0 < times[0] <= times[-1] <= search["time_ms"]["search"] + search["time_ms"]["queue"]
    assert first["tree"] == second["tree"]
    assert first["tokens"] == second["tokens"]


def test_by_embedding_fewer_options_are_children(http: httpx.Client) -> None:
    def children(threshold: float) -> int:
        merge = {"by": "embedding", "threshold": threshold, "redraws": 0}
        search = {"merge": merge, "width": {"root": [12, 12]}, "budget": {"simulations": 1}}
        return len(ask(http, {**search, "fallback": [], "include": ["root"]})["search"]["root"])

    assert 1 <= children(0.9) < children(0.0)

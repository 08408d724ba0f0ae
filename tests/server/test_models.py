"""What is served, and whether it is well."""

from __future__ import annotations

import httpx
import openai
import pytest

METHODS = (
    "mcts",
    "beam",
    "best_of_n",
    "self_consistency",
    "dvts",
    "best_first",
    "sample",
    "greedy",
)
NAMES = {"demo", *(f"demo:{method}" for method in METHODS)}


def test_every_method_is_a_model(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert {model.id for model in models} == NAMES
    for name in NAMES:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("demo:guess")


def test_health_and_readiness(http: httpx.Client) -> None:
    health = http.get("/health")
    assert health.status_code == 200
    assert health.json()["heartbeat_age_seconds"] < 5
    assert http.get("/ready").json() == {"status": "ready", "model": "demo"}


def test_the_description_names_bodies_and_answers(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    operation = schema["paths"]["/v1/completions"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/CompletionRequest"
    fields = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert {"prompt", "search", "max_tokens"} <= fields.keys()

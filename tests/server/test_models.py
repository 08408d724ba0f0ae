"""What is served, and whether it is well."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import httpx
import openai
import pytest

from demo import checkpoint_path

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


def test_a_model_says_how_large_its_parts_are_and_what_may_be_asked(http: httpx.Client) -> None:
    model = http.get("/v1/models/demo").json()
    folder = checkpoint_path()
    stored = {"policy": ["model"], "rollout": ["model"]}
    for card in folder.glob("*/critic.json"):
        if json.loads(card.read_text())["trunk"] == "own":
            stored[card.parent.name] = ["model", "head"]
    assert model["parameters"] == {
        part: sum(
            math.prod(shape)
            for file in files
            for shape in shapes(folder / part / f"{file}.safetensors")
        )
        for part, files in stored.items()
    }
    assert model["limits"]["budget.tokens"] == 200_000
    assert model["limits"]["width.samples"] == 64


def shapes(path: Path) -> list[list[int]]:
    """Of all tensors of a file, from its header alone."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return [entry["shape"] for name, entry in header.items() if name != "__metadata__"]


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

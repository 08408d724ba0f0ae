"""The OpenAPI description of the routes whose bodies the server reads itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from server.responses import ChatCompletion, Completion, Error, Models
from server.schemas import ChatRequest, CompletionRequest

_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Adds the bodies of requests and answers to the description that FastAPI makes."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> None:
    _, definitions = models_json_schema(
        [
            (CompletionRequest, "validation"),
            (ChatRequest, "validation"),
            *((model, "serialization") for model in (Completion, ChatCompletion, Models, Error)),
        ],
        ref_template=_REF,
    )
    schema["components"] = {"schemas": definitions["$defs"]}
    for path, method, request, answer in (
        ("/v1/completions", "post", "CompletionRequest", "Completion"),
        ("/v1/chat/completions", "post", "ChatRequest", "ChatCompletion"),
        ("/v1/models", "get", None, "Models"),
    ):
        operation = schema["paths"][path][method]
        if request is not None:
            operation["requestBody"] = {"required": True, "content": _json(request)}
            operation["responses"]["4XX"] = {"description": "Refused", "content": _json("Error")}
        operation["responses"]["200"]["content"] = _json(answer)


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=name)}}}

"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcts_core.query import QueryError
from mcts_core.search.search import SearchFailed


class ApiError(Exception):
    """An answer that is an error. `param` names the request's field, such as "search.budget"."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def response(self) -> Response:
        return JSONResponse(self.body, self.status, self.headers)


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the field at fault."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, code: str, seconds: int) -> ApiError:
    """A 503 that asks the client to come again after `seconds`."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(seconds)})


def stopping() -> ApiError:
    """The server has been told to stop."""
    return unavailable("The server is shutting down.", "shutting_down", 5)


def internal(request_id: str) -> ApiError:
    """A 500 that tells the client no more than where to look in the log."""
    message = f"The server failed on this request; its log has the cause under {request_id}."
    return ApiError(500, message, code="internal_error", headers={"X-Request-Id": request_id})


def of_query(error: QueryError, prompt_field: str) -> ApiError:
    """A refusal by the served model. `prompt_field` is what this endpoint calls the prompt."""
    param = prompt_field if error.field == "prompt" else error.field
    return invalid(param, str(error))


def of_search(failure: SearchFailed, request_id: str, prompt_field: str) -> ApiError:
    """A search that has nothing to return."""
    if failure.reason == "deadline":
        # The openai client would send a 504 twice more, to no better end.
        return ApiError(
            504, str(failure), code="deadline_exceeded", headers={"x-should-retry": "false"}
        )
    if failure.reason == "kv_exhausted":
        return unavailable(str(failure), "kv_exhausted", 1)
    if failure.reason == "budget":
        return invalid("search.budget", str(failure))
    if failure.reason == "context_length":
        return invalid(prompt_field, str(failure), "context_length_exceeded")
    return internal(request_id)


def of_validation(error: ValidationError, body: bytes | str) -> ApiError:
    """A body that is not JSON, or does not fit the schema: the first fault, with its field."""
    faults = error.errors(include_url=False)
    first = faults[0]
    if first["type"] == "json_invalid":
        return invalid(None, f"The body is not JSON: {first['ctx']['error']}.", "invalid_json")
    if not first["loc"]:
        return invalid(None, "The body must be a JSON object.", "invalid_value")
    value = json.loads(body, parse_int=float)
    # A union names a fault for each member; the one that is deepest knows best, and of those the
    # one of a member that could read the value.
    paths = [(_path(fault, value), fault) for fault in faults if fault["loc"][0] == first["loc"][0]]
    path, fault = max(paths, key=lambda pair: (len(pair[0]), pair[1]["type"] == "value_error"))
    param = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return invalid(param, f"Unknown field '{param}'.", "unknown_field")
    if fault["type"] == "missing":
        return invalid(param, f"The field '{param}' is required.", "missing_field")
    message = fault["msg"].removeprefix("Value error, ")
    return invalid(param, f"Bad value for '{param}': {message}.", "invalid_value")


def _path(fault: ErrorDetails, value: Any) -> list[str]:
    """The field's path in the client's own body: pydantic's location without the names of types
    that it puts in for the members of a union."""
    path: list[str] = []
    for part in fault["loc"]:
        known = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if known or (isinstance(value, dict) and part in value):
            value = value[part]
        elif fault["type"] != "missing" or part is not fault["loc"][-1]:
            continue
        path.append(str(part))
    return path


async def answer_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response


async def answer_http_exception(_: Request, error: Exception) -> Response:
    """Unknown routes and methods, in the same form as every other error."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = {404: "There is no such route.", 405: "This route does not take this method."}
    text = message.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, text, code=code, headers=error.headers).response

"""The search that a request comes to: its model's name, its own wishes, the model's preset."""

from __future__ import annotations

from typing import cast

from pydantic import ValidationError

from mcts_core.query import Served
from mcts_core.search.parameters import Method, SearchParameters
from server.caps import Caps
from server.errors import ApiError, invalid
from server.schemas import GenerationRequest


class Preset:
    """Lays requests over the served model's preset, within the server's caps."""

    def __init__(self, served: Served, caps: Caps) -> None:
        self._served = served
        self._caps = caps

    @property
    def model_names(self) -> tuple[str, ...]:
        """`NAME` for the preset, and `NAME:METHOD` for clients that can send no extra field."""
        name = self._served.name
        return (name, *(f"{name}:{method}" for method in self._served.methods))

    def method_of(self, model: str) -> Method | None:
        """The method in a model's name; None is the preset's own.

        Raises `ApiError` (404, `model_not_found`).
        """
        if model == self._served.name:
            return None
        if model not in self.model_names:
            raise ApiError(
                404,
                f"There is no model '{model[:100]}' here; there are {', '.join(self.model_names)}.",
                param="model",
                code="model_not_found",
            )
        return cast("Method", model.rpartition(":")[2])

    def over(self, request: GenerationRequest, best_of: int | None = None) -> SearchParameters:
        """The request's search, complete, with every cap of the server filled in.

        Raises `ApiError`.
        """
        named = self.method_of(request.model)
        search = request.search or SearchParameters()
        self._caps.check_search(search)
        wanted = search.model_dump(exclude_unset=True)
        if named is not None:
            if wanted.get("method", named) != named:
                raise invalid(
                    "search.method", f"The model '{request.model}' already names another method."
                )
            wanted["method"] = named
        if best_of is not None:
            wanted |= self._best_of(best_of, request, named)
        if request.temperature is not None:
            wanted.setdefault("temperature", request.temperature)
        if request.min_p is not None:
            wanted.setdefault("min_p", request.min_p)
        merged = self._merge(wanted)
        if merged.method not in self._served.methods:
            known = ", ".join(self._served.methods)
            raise invalid(
                "search.method", f"This model has no method '{merged.method}'; it has {known}."
            )
        return self._caps.fill(merged)

    def _best_of(
        self, best_of: int, request: GenerationRequest, named: Method | None
    ) -> dict[str, object]:
        """OpenAI's best_of: the n best of so many independent samples."""
        self._caps.check("best_of", best_of, "max_best_of")
        if best_of < request.n:
            raise invalid("best_of", f"'best_of' ({best_of}) is less than 'n' ({request.n}).")
        if best_of > 1 and request.stream:
            raise invalid("best_of", "'best_of' cannot be streamed.")
        if best_of == request.n:  # Nothing to choose from: the field's default, spelled out.
            return {}
        if request.search is not None or named not in (None, "best_of_n"):
            raise invalid(
                "best_of", "'best_of' is a method of its own: with 'search', use its 'width'."
            )
        return {"method": "best_of_n", "width": {"samples": best_of}}

    def _merge(self, wanted: dict[str, object]) -> SearchParameters:
        try:
            return SearchParameters.model_validate(wanted).over(self._served.preset)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(["search", *(str(part) for part in first["loc"])])
            raise invalid(path, f"Bad value for '{path}': {first['msg']}.") from None

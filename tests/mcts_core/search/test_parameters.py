from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mcts_core.search.parameters import SearchParameters


def parse(**fields: Any) -> SearchParameters:
    return SearchParameters.model_validate(fields)


def test_a_request_overlays_its_preset_field_by_field() -> None:
    preset = parse(
        critics={"value": 1.0, "orm": 0.5},
        budget={"simulations": 10, "tokens": 500},
        width={"root": [2, 3]},
        parallel=4,
    )
    merged = parse(budget={"simulations": 20}, width={"alpha": 2.0}).over(preset)
    assert merged.budget.simulations == 20
    assert merged.budget.tokens == 500
    assert merged.width.root == (2, 3)
    assert merged.width.alpha == 2.0
    assert merged.parallel == 4
    assert merged.critics == {"value": 1.0, "orm": 0.5}


def test_critics_and_step_patterns_are_replaced_whole() -> None:
    preset = parse(critics={"value": 1.0}, step={"until": {"strings": ["\n"]}, "max_tokens": 9})
    merged = parse(critics={"orm": 1.0}, step={"until": {"regex": "x"}}).over(preset)
    assert merged.critics == {"orm": 1.0}
    assert merged.step.until.model_dump(exclude_none=True) == {"regex": "x"}  # type: ignore[union-attr]
    assert merged.step.max_tokens == 9


def test_an_explicit_null_lifts_a_presets_limit() -> None:
    merged = parse(budget={"tokens": None}).over(parse(budget={"tokens": 5}))
    assert merged.budget.tokens is None


def test_overlaying_nothing_is_the_preset() -> None:
    preset = parse(method="beam", stop_when={"score": 0.9}, include=["root"])
    assert parse().over(preset) == preset


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"simulation": 3}, "simulation"),
        ({"budget": {"simulations": 0}}, "budget.simulations"),
        ({"budget": {"time": 1}}, "budget.time"),
        ({"width": {"root": [5, 2]}}, "width.root"),
        ({"critics": {"value": -1}}, "critics.value"),
        ({"step": {"until": {"regex": "("}}}, "step.until"),
        ({"step": {"until": {"strings": []}}}, "step.until"),
        ({"step": {"until": {}}}, "step.until"),
        ({"step": {"until": {"tokens": 0}}}, "step.until"),
        ({"step": {"until": {"tokens": 3, "regex": "x"}}}, "step.until"),
        ({"merge": {"threshold": 2}}, "merge.threshold"),
        ({"merge": {"state": {"regex": "("}}}, "merge.state.regex"),
        ({"merge": {"state": {}}}, "merge.state.regex"),
        ({"select": {"c": float("nan")}}, "select.c"),
        ({"claims": {}}, "claims.after"),
        ({"claims": {"after": []}}, "claims.after"),
        ({"claims": {"after": [""]}}, "claims.after"),
        ({"claims": {"after": ["="], "least": 0}}, "claims.least"),
        ({"method": "magic"}, "method"),
        ({"fallback": ["mcts"]}, "fallback"),
    ],
)
def test_an_error_names_its_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as error:
        parse(**fields)
    places = [".".join(map(str, entry["loc"])) for entry in error.value.errors()]
    assert any(place.startswith(name) for place in places)


def test_parameters_cannot_be_changed_afterwards() -> None:
    parameters = parse()
    with pytest.raises(ValidationError):
        parameters.parallel = 3  # type: ignore[misc]

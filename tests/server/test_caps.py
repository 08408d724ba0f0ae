"""The server's caps: a request beyond them is refused, a preset is lowered to them."""

from __future__ import annotations

import pytest

from mcts_core.search.parameters import Budget, Rollouts, SearchParameters, Width
from server.caps import Caps
from server.errors import ApiError
from server.settings import Settings

CAPS = Caps(Settings(max_best_of=4, max_rollouts=2, max_parallel=3, max_simulations=50))
GREEDY = SearchParameters(
    budget=Budget(simulations=1000),
    width=Width(root=(8, 99), inner=(5, 9), beam=64, subtrees=99, samples=128),
    rollouts=Rollouts(count=16),
    parallel=64,
)


def test_a_preset_is_lowered_to_every_cap() -> None:
    lowered = CAPS.fill(GREEDY)
    CAPS.check_search(lowered)
    assert lowered.width == Width(root=(4, 99), inner=(4, 9), beam=4, subtrees=4, samples=4)
    assert (lowered.rollouts.count, lowered.parallel, lowered.budget.simulations) == (2, 3, 50)


def test_what_is_within_the_caps_stays() -> None:
    width = Width(root=(2, 3), inner=(1, 2), beam=3, subtrees=2, samples=4)
    assert CAPS.fill(SearchParameters(width=width)).width == width


@pytest.mark.parametrize("path", CAPS.search_limits)
def test_a_request_beyond_a_cap_is_refused_by_its_field(path: str) -> None:
    above = CAPS.search_limits[path] + 1
    search: object = above
    for part in reversed(path.removesuffix(".0").split(".")):
        search = {part: [above, above] if path.endswith(".0") and search == above else search}
    with pytest.raises(ApiError, match="allows at most") as refused:
        CAPS.check_search(SearchParameters.model_validate(search))
    assert refused.value.param == f"search.{path}"

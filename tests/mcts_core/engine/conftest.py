from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mcts_core.engine.harness import Running


@pytest.fixture
def running() -> Iterator[Running]:
    engine = Running()
    yield engine
    engine.idle()
    engine.close()

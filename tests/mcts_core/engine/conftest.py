from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mcts_core.engine.harness import Running
from tests.mcts_core.engine.plans import SICK


@pytest.fixture
def running() -> Iterator[Running]:
    engine = Running()
    yield engine
    engine.idle()
    engine.close()


@pytest.fixture
def sick_token(running: Running) -> Iterator[int]:
    """A token whose embedding is not a number: whoever reads it gets logits that are none."""
    embedding = running.residents["policy"].decoder.model.get_input_embeddings()
    kept = embedding.weight[SICK].clone()
    embedding.weight.data[SICK] = float("nan")
    yield SICK
    embedding.weight.data[SICK] = kept

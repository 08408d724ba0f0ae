"""A real server for whole evaluations; it takes five requests at once and turns others away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.conftest import Process, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from running(
        tmp_path_factory.mktemp("server") / "log", "--max-running", "4", "--max-waiting", "1"
    )

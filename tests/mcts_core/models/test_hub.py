"""What would break: a model that is fetched without being asked for, or looked for in vain."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import NoReturn

import pytest
from huggingface_hub import constants

from mcts_core.models.hub import NotFound, locate


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one model, and no network."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return snapshot


def test_a_folder_goes_before_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert locate("someone/tiny", tmp_path) == cache
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    assert locate("someone/tiny", tmp_path) == tmp_path / "someone" / "tiny"
    monkeypatch.chdir(tmp_path)
    assert locate("someone/tiny") == Path("someone/tiny")


@pytest.mark.usefixtures("cache")
def test_what_is_not_cached_is_not_fetched_unless_asked_for() -> None:
    with pytest.raises(NotFound, match=r"someone/other is not in the local cache: --download"):
        locate("someone/other")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("reference", ["nowhere", "./some/where", "a/b/c", "some/--x"])
def test_what_is_no_id_is_a_folder_that_is_missing(reference: str) -> None:
    with pytest.raises(NotFound, match=r"there is no model folder [^,]*$"):
        locate(reference)

"""Flags before the environment, before the file, before the defaults; mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.settings import Settings, SettingsError


def test_each_source_goes_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("port: 1\nmax_running: 1\nmax-waiting: 1\nhost: 0.0.0.0\n")
    monkeypatch.setenv("MCTS_SERVE_PORT", "2")
    monkeypatch.setenv("MCTS_SERVE_MAX_RUNNING", "2")
    settings = Settings.gather({"port": "3"}, config)
    assert (settings.port, settings.max_running, settings.max_waiting) == (3, 2, 1)
    assert settings.host == "0.0.0.0"
    assert settings.max_parallel == Settings.model_fields["max_parallel"].default


def test_the_address_that_kubernetes_gives_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named mcts-serve puts it into the environment of its pods."""
    monkeypatch.setenv("MCTS_SERVE_PORT", "tcp://10.96.0.12:8000")
    monkeypatch.setenv("MCTS_SERVE_SERVICE_HOST", "10.96.0.12")
    assert Settings.gather({}).port == Settings.model_fields["port"].default


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("prot: 1", "prot"),
        ("port: high", "port"),
        ("- port", "name: value"),
        ("port: [", "YAML"),
        ("max_deadline_ms: 600000", "max_deadline_ms"),
        ("max_running: 0", "MCTS_SERVE_MAX_RUNNING"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: str, named: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content)
    with pytest.raises(SettingsError, match=named) as error:
        Settings.gather({}, config)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.yaml"):
        Settings.gather({}, tmp_path / "nothing.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("# nothing\n")
    assert Settings.gather({}, config) == Settings.gather({})


def test_the_name_follows_the_model(tmp_path: Path) -> None:
    assert Settings.gather({}).name == "demo"
    assert Settings.gather({"model": str(tmp_path / "llama")}).name == "llama"
    assert Settings.gather({"served_model_name": "x"}).name == "x"


def test_every_setting_is_described_and_grouped() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict)
        assert field.json_schema_extra["group"] in {"Model", "Server", "Queue", "Limits"}


def test_the_documentation_lists_every_setting_with_its_default() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    listed = {row.split("`")[1]: row for row in rows}
    assert listed.keys() >= Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
            shown = field.default if isinstance(field.default, str) else f"{field.default:.10g}"
            assert f"`{shown}`" in listed[name]

"""The command line: help for people, one clear line for mistakes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server import __version__
from server.settings import Settings
from tests.server.conftest import Process


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | environment,
    )


def test_help_lists_every_setting() -> None:
    result = run("serve", "--help")
    assert result.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in result.stdout
    assert "(default: 8000)" in result.stdout
    assert "MCTS_SERVE_" in result.stdout
    assert "serve" in run("--help").stdout


def test_version() -> None:
    assert run("--version").stdout == f"mcts-serve {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--port", "high"], "--port"),
        (["--port", "70000"], "--port"),
        (["--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (["--host", "256.1.1.1"], "256.1.1.1"),
        (["--max-running", "0"], "--max-running"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], named: str) -> None:
    result = run("serve", *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("mcts-serve: ")
    assert named in line


def test_a_bad_environment_is_one_line() -> None:
    result = run("serve", MCTS_SERVE_PORT="high")
    assert result.returncode == 1
    assert "MCTS_SERVE_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("serve", "--port", port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"mcts-serve: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in result.stderr


def test_a_folder_without_a_model_ends_the_process_with_a_line(tmp_path: Path) -> None:
    result = run("serve", "--model", str(tmp_path), "--port", "0")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(r"^mcts-serve: cannot load the model ", result.stderr, re.MULTILINE)


def test_the_log_shows_the_way_to_the_first_request(server: Process) -> None:
    assert "loading" in server.log
    assert "ready" in server.log
    assert f"curl {server.url}/v1/completions" in server.log

"""Whole servers: the real command line in a process of its own, with the embedded model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

PUZZLE = "Use 4 9 10 13 to make 24.\n"
STARTING_SECONDS = 120

Body = dict[str, Any]


class Process:
    """`mcts-serve serve --model demo` on a free port."""

    def __init__(self, log: Path, *flags: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--threads", "1"]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MCTS_SERVE_")
        }
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, *flags], stderr=stderr, stdout=stderr, env=environment
            )
        self.url = self._find_url()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + STARTING_SECONDS
        while httpx.get(f"{self.url}/ready", timeout=STARTING_SECONDS).status_code != 200:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def _find_url(self) -> str:
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            found = re.search(r"(http://[\d.:]+)[^\d.:]", self.log)
            if found:
                return found[1]
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


def running(log: Path, *flags: str) -> Iterator[Process]:
    process = Process(log, *flags)
    try:
        process.wait_until_ready()
        yield process
    finally:
        status = process.stop()
    assert status == 0, process.log
    assert "Traceback" not in process.log, process.log


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with the default settings, but for frequent keep-alives."""
    log = tmp_path_factory.mktemp("server") / "log"
    yield from running(log, "--keep-alive-seconds", "0.2", "--docs")


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server with room for next to nothing."""
    config = tmp_path_factory.mktemp("narrow") / "config.yaml"
    config.write_text(
        "served_model_name: small\nmax_running: 1\nmax_waiting: 1\nmax_body_bytes: 2000\n"
        "max_prompts: 2\nmax_n: 4\nmax_best_of: 5\nmax_tokens: 400\nmax_simulations: 32\n"
        "max_spent_tokens: 5000\nmax_deadline_ms: 5000\nmax_nodes: 100\nmax_parallel: 4\n"
        "max_prompt_tokens: 40\nmax_logprobs: 3\n"
    )
    yield from running(config.with_name("log"), "--config", str(config))


@pytest.fixture(scope="session")
def client(server: Process) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


@pytest.fixture(scope="session")
def http(server: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
async def calls(server: Process) -> Any:
    """An asynchronous client with room for many requests at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        yield client


def endless(**fields: Any) -> Body:
    """A request that goes on for seconds: samples that may not end."""
    return {
        "model": "demo:sample",
        "prompt": PUZZLE,
        "n": 16,
        "max_tokens": 1000,
        "logit_bias": {"1": -100},
        **fields,
    }


def check_search(report: Body) -> None:
    """The figures of a `search` object that must add up, whatever was searched."""
    tokens = report["tokens"]
    kinds = ("policy", "rollout", "critics")
    assert tokens["spent"] == sum(tokens[kind]["computed"] for kind in kinds)
    assert tokens["critics"]["computed"] == sum(
        count["computed"] for count in tokens["critic"].values()
    )
    assert tokens["returned"] > 0
    assert tokens["policy"]["computed"] > 0
    assert report["simulations"] >= 1
    assert 1 <= report["terminals"] < report["nodes"] or report["stop_reason"] == "deadline"
    assert report["depth"] >= 1
    assert report["kv"]["blocks_peak"] > 0
    assert 0 <= report["kv"]["shared_ratio"] < 1
    times = report["time_ms"]
    assert 0 <= times["model"] <= times["search"] + 1
    assert times["first_simulation"] >= 0
    assert times["queue"] >= 0
    assert report["requested_method"] == report["method"] or report["fallback"] is not None
    assert report["candidates"] == []
    assert report["root"] == []
    assert report["tree"] is None


def without_times(report: Body) -> Body:
    """What must be the same for the same seed: everything but the clock, the id, the peak of
    blocks, which depends on when other work frees them, and what was computed, which depends on
    what other requests have left."""
    kept = {key: report[key] for key in report if key not in ("id", "time_ms", "kv")}
    kept["tokens"] = {key: report["tokens"][key] for key in ("returned", "spent")}
    return kept

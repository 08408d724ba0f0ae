"""A server's life: it answers while it loads, finishes what it began, and shares nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from pathlib import Path
from typing import NoReturn

import httpx

from server.app import build
from server.model import Progress, Watcher
from server.settings import Settings
from tests.server.conftest import PUZZLE, Process, endless


def test_it_answers_while_loading_and_finishes_what_is_under_way(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", "--log-format", "json")
    try:
        with httpx.Client(base_url=process.url, timeout=60) as http:
            assert http.get("/health").status_code == 200
            ready = http.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["status"] == "loading"
            refused = http.post("/v1/completions", json=endless())
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "model_loading"
            assert int(refused.headers["retry-after"]) > 0
            assert 'mcts_model_loaded{model_name="demo"} 0.0' in http.get("/metrics").text
            process.wait_until_ready()
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = endless(max_tokens=600, n=8)
            answers.append(httpx.post(f"{process.url}/v1/completions", json=body, timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        while 'requests_running{model_name="demo"} 1.0' not in (
            httpx.get(f"{process.url}/metrics").text
        ):
            assert asking.is_alive()
        assert process.stop() == 0
        asking.join(timeout=60)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["choices"]) == 8
        assert '"event": "stopped"' in process.log
    finally:
        if process.process.poll() is None:
            process.process.kill()


def test_what_is_not_done_in_time_is_told_so(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", "--grace-seconds", "1")
    answers: dict[bool, httpx.Response] = {}

    def ask(stream: bool) -> None:
        body = endless(n=32, stream=stream)
        answers[stream] = httpx.post(f"{process.url}/v1/completions", json=body, timeout=60)

    try:
        process.wait_until_ready()
        asking = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for each in asking:
            each.start()
        while 'requests_running{model_name="demo"} 2.0' not in (
            httpx.get(f"{process.url}/metrics").text
        ):
            assert all(each.is_alive() for each in asking)
        assert process.stop() == 0
        for each in asking:
            each.join(timeout=60)
    finally:
        if process.process.poll() is None:
            process.process.kill()
    whole, stream = answers[False], answers[True]
    assert whole.status_code == 503
    assert whole.json()["error"]["code"] == "shutting_down"
    assert int(whole.headers["retry-after"]) > 0
    assert whole.headers["x-request-id"]
    *_, error, done = [line for line in stream.text.splitlines() if line.startswith("data: ")]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert done == "data: [DONE]"


def test_for_a_while_after_sigterm_probes_fail_and_requests_do_not(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", "--drain-seconds", "2")
    try:
        process.wait_until_ready()
        process.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=process.url, timeout=60) as http:
            while (ready := http.get("/ready")).status_code == 200:
                pass
            assert ready.json()["status"] == "leaving"
            body = {"model": "demo:greedy", "prompt": PUZZLE}
            assert http.post("/v1/completions", json=body).status_code == 200
        assert process.process.wait(timeout=60) == 0
        assert "stopped" in process.log
    finally:
        if process.process.poll() is None:
            process.process.kill()


def refuse(_: Progress) -> NoReturn:
    raise OSError("there is nothing to load")


async def test_two_servers_in_one_process_share_nothing() -> None:
    pages = []
    for name in ("one", "two"):
        server = build(Settings(served_model_name=name), refuse)
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for _ in range(len(pages) + 1):
                await http.get("/health")
            pages.append((await http.get("/metrics")).text)
    for page, name, other, count in zip(pages, ("one", "two"), ("two", "one"), (1, 2), strict=True):
        assert f'model_name="{other}"' not in page
        line = f'endpoint="/health",method="",model_name="{name}",status="200"'
        assert f"mcts_requests_total{{{line}}} {count}.0" in page


async def test_a_failed_load_is_told_once_and_ends_the_health() -> None:
    failures: list[Exception] = []
    told = asyncio.Event()

    def failed(error: Exception) -> None:
        failures.append(error)
        told.set()

    server = build(Settings(), refuse, Watcher(failed=failed))
    transport = httpx.ASGITransport(server.app)
    async with (
        server.app.router.lifespan_context(server.app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        await asyncio.wait_for(told.wait(), 10)
        assert (await http.get("/health")).status_code == 503
        assert (await http.get("/ready")).status_code == 503
    assert [str(error) for error in failures] == ["there is nothing to load"]

"""The same models behind HTTP, in our own server and in others, and in transformers' `generate`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM

from benchmarks.shapes import CONTEXT_LENGTH

STARTING_SECONDS = 600.0


@contextmanager
def serving(folder: Path, *, dtype: str, clients: int, threads: int, log: Path) -> Iterator[str]:
    """`mcts-serve serve` over the checkpoint, in a process of its own; yields its URL (`.../v1`).

    Raises `RuntimeError` with the server's log when it does not start.
    """
    port = _free_port()
    flags = ["--model", str(folder), "--served-model-name", "benchmark", "--port", str(port)]
    flags += ["--dtype", dtype, "--max-running", str(clients), "--threads", str(threads)]
    command = [sys.executable, "-m", "server", "serve", *flags]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MCTS_SERVE_")
    }
    with _running(command, environment, f"http://127.0.0.1:{port}", "ready", log) as url:
        yield url


@contextmanager
def vllm(executable: Path, folder: Path, *, dtype: str, log: Path) -> Iterator[str]:
    """`vllm serve` over the checkpoint, as `serving`: it is there only while it is measured, for
    idle it still takes part of a core."""
    port = _free_port()
    flags = ["--dtype", dtype, "--max-model-len", str(CONTEXT_LENGTH), "--port", str(port)]
    environment = {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2", **os.environ}
    environment.pop("PYTHONPATH", None)  # it has an environment of its own
    command = [str(executable), "serve", str(folder), *flags]
    with _running(command, environment, f"http://127.0.0.1:{port}", "health", log) as url:
        yield url


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], url: str, ready: str, log: Path
) -> Iterator[str]:
    """A server's process, from when its path `ready` answers; yields `url` with `/v1`."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + STARTING_SECONDS
        while not _answers(f"{url}/{ready}"):
            if process.poll() is not None or time.monotonic() >= deadline:
                text = log.read_text(encoding="utf-8")
                raise RuntimeError(f"{command[0]} did not start:\n{text}")
            time.sleep(0.1)
        yield f"{url}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def served_name(url: str) -> str:
    """The first model of an OpenAI endpoint (`.../v1`)."""
    answer = httpx.get(f"{url}/models")
    answer.raise_for_status()
    return str(answer.json()["data"][0]["id"])


def complete(url: str, model: str, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
    """Each prompt is a client, all at once; returns completion tokens, as the server counted them,
    and seconds. Raises `RuntimeError` when an answer does not have `tokens` tokens."""

    async def ask(client: httpx.AsyncClient, prompt: list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0}
        answer = await client.post(f"{url}/completions", json=body)
        answer.raise_for_status()
        count = int(answer.json()["usage"]["completion_tokens"])
        if count != tokens:
            raise RuntimeError(f"{url} answered {count} tokens where {tokens} were asked for")
        return count

    async def ask_all() -> tuple[int, float]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            began = time.perf_counter()
            counts = await asyncio.gather(*(ask(client, prompt) for prompt in prompts))
            return sum(counts), time.perf_counter() - began

    return asyncio.run(ask_all())


class Generate:
    """transformers' `generate` over static batches."""

    def __init__(self, folder: Path, dtype: torch.dtype, threads: int) -> None:
        model: Any = AutoModelForCausalLM
        self._model = model.from_pretrained(folder, dtype=dtype).eval()
        self._threads = threads

    @torch.inference_mode()
    def run(self, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
        """Prompts of one length; returns new tokens and seconds."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            ids = torch.tensor(prompts)
            began = time.perf_counter()
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                top_k=0,
            )
            return int(found[:, ids.shape[1] :].numel()), time.perf_counter() - began
        finally:
            torch.set_num_threads(before)

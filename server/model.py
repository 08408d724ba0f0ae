"""The served model's life in the server: loading, ready, draining."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mcts_core.query import EngineGauges, Served
from server.errors import stopping, unavailable

Progress = Callable[[str, float], None]
"""Hears what is being loaded, and which share of everything is done (0 to 1)."""

Load = Callable[[Progress], Served]
"""Loads the model; blocks, and is called in a thread of its own."""

Phase = Literal["loading", "ready", "leaving", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told of a model's life; called from the event loop, or from the loading thread for
    `progress`."""

    progress: Progress = lambda stage, share: None
    ready: Callable[[Served], None] = lambda served: None
    failed: Callable[[Exception], None] = lambda error: None


class ServedModel:
    """Holds the place of a model until it is there.

    The port is bound before the model is loaded, so that /health and /metrics answer at once.
    """

    def __init__(self, load: Load, watcher: Watcher) -> None:
        self._load = load
        self._watcher = watcher
        self._served: Served | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.phase: Phase = "loading"
        self.stage = "starting"
        self.share = 0.0

    def start(self) -> None:
        """Begins to load; called from the event loop that will use the model."""
        self._loop = asyncio.get_running_loop()
        # A daemon: a process that is told to stop does not wait for weights.
        threading.Thread(target=self._run, name="loader", daemon=True).start()

    async def close(self) -> None:
        """Stops the engine; searches that are under way fail."""
        self.phase = "draining"
        served, self._served = self._served, None
        if served is not None:
            await asyncio.to_thread(served.close)

    def leave(self) -> None:
        """Not ready to probes any more; whoever still comes is served."""
        if self.phase == "ready":
            self.phase = "leaving"

    def drain(self) -> None:
        """No new requests from here on."""
        if self.phase != "failed":
            self.phase = "draining"

    def get(self) -> Served:
        """Raises `ApiError` (503) while there is no model to ask."""
        if self.phase == "loading":
            raise unavailable(
                f"The model is being loaded ({self.stage}, {self.share:.0%}).", "model_loading", 2
            )
        if self.phase not in ("ready", "leaving") or self._served is None:
            raise stopping()
        return self._served

    @property
    def gauges(self) -> EngineGauges | None:
        return None if self._served is None else self._served.gauges()

    def _run(self) -> None:
        try:
            served = self._load(self._progress)
        except Exception as error:  # Whatever it is, it belongs in the log and ends the start.
            self._call(self._failed, error)
        else:
            self._call(self._ready, served)

    def _call(self, call: Callable[[Any], None], argument: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, argument)

    def _progress(self, stage: str, share: float) -> None:
        self.stage, self.share = stage, share
        self._watcher.progress(stage, share)

    def _ready(self, served: Served) -> None:
        if self.phase == "draining":
            served.close()
            return
        self._served = served
        self.phase = "ready"
        self._watcher.ready(served)

    def _failed(self, error: Exception) -> None:
        self.phase = "failed"
        self._watcher.failed(error)

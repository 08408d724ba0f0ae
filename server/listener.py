"""The process's HTTP listener: one socket, one uvicorn, one model."""

from __future__ import annotations

import math
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that none is closed under a new request."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything slow has begun: who comes early waits, and is not
    refused. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError:
        bound.close()
        raise
    return bound


class Listener(uvicorn.Server):
    """Serves until told to stop; then what is under way gets `grace_seconds` to finish.

    Who sends SIGTERM has often told only some of those who send requests that there will be no
    answers: for `drain_seconds` everything is taken as before, and only probes are refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        grace_seconds: int,
        drain_seconds: float,
        on_leave: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=grace_seconds,
            )
        )
        self._on_stop = on_stop
        self._on_leave = on_leave
        self._drain_seconds = drain_seconds
        self._stops_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops in good order: `run` returns, where uvicorn would raise the signal once more.

        A second interrupt does not wait for requests, a second signal not for those to come.
        """
        if sig == signal.SIGTERM and self._drain_seconds and self._stops_at == math.inf:
            self._stops_at = time.monotonic() + self._drain_seconds
            self._on_leave()
            return
        self._on_stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop."""
        if time.monotonic() >= self._stops_at and not self.should_exit:
            self._on_stop()
            self.should_exit = True
        return await super().on_tick(counter)

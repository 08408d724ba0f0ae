"""The server's Prometheus metrics, in a registry of their own.

Every name has the prefix `mcts_` and every metric the label `model_name`. No label ever comes from
a prompt, a request id or a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mcts_core.query import EngineGauges, Reply
from mcts_core.search.search import SearchFailed
from server import __version__
from server.admission import Admission

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_RATIOS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Gauged(Protocol):
    @property
    def gauges(self) -> EngineGauges | None:
        """The engine's figures; None while there is no engine."""


class Metrics:
    """What the server counts. One object for each server."""

    def __init__(self, model_name: str, admission: Admission, engine: Gauged) -> None:
        self._registry = CollectorRegistry()
        self._name = model_name
        self._requests = self._counter(
            "requests", "Requests answered, by search method.", "endpoint", "status", "method"
        )
        self._rejections = self._counter(
            "admission_rejections", "Requests refused before any search.", "reason"
        )
        self._fallbacks = self._counter(
            "search_fallbacks", "Searches that took the ladder.", "reason"
        )
        self._deadline_hits = self._counter(
            "search_deadline_hits", "Searches that their deadline ended."
        )
        self._cancellations = self._counter(
            "search_cancellations", "Requests cancelled while they waited or searched.", "reason"
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished searches.")
        self._generated = self._counter(
            "tokens_generated", "Tokens computed for finished searches, by kind of model.", "kind"
        )
        self._returned = self._counter("tokens_returned", "Completion tokens sent to clients.")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first text.", _SECONDS
        )
        self._token_seconds = self._histogram(
            "time_per_output_token_seconds",
            "A search's wall time over the tokens that it returned.",
            _TOKEN_SECONDS,
        )
        self._duration = self._histogram(
            "request_duration_seconds", "From arrival to the last byte.", _SECONDS, "endpoint"
        )
        self._queue = self._histogram(
            "request_queue_seconds", "From admission to the engine's first look.", _SECONDS
        )
        self._search = self._histogram(
            "search_duration_seconds", "Wall time of a search in the engine.", _SECONDS
        )
        self._simulations = self._histogram(
            "search_simulations", "Simulations of a search.", _COUNTS
        )
        self._nodes = self._histogram("search_nodes", "Nodes of a search's tree.", _COUNTS)
        self._depth = self._histogram("search_tree_depth", "Depth of a search's tree.", _DEPTHS)
        self._amplification = self._histogram(
            "search_token_amplification", "Spent over returned tokens of a search.", _RATIOS
        )
        build = Gauge(
            "mcts_build_info", "Always 1.", ["model_name", "version"], registry=self._registry
        )
        build.labels(model_name, __version__).set(1)
        self._registry.register(_Engine(model_name, admission, engine))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the `Accept` header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def answered(self, endpoint: str, status: int, method: str, seconds: float) -> None:
        """A request is over; 499 when the client left before its end."""
        self._requests.labels(self._name, endpoint, str(status), method).inc()
        self._duration.labels(self._name, endpoint).observe(seconds)

    def rejected(self, reason: str) -> None:
        self._rejections.labels(self._name, reason).inc()

    def cancelled(self, reason: str) -> None:
        self._cancellations.labels(self._name, reason).inc()

    def first_text(self, seconds: float) -> None:
        self._first_token.labels(self._name).observe(seconds)

    def failed(self, failure: SearchFailed) -> None:
        if failure.reason == "deadline":
            self._deadline_hits.labels(self._name).inc()

    def searched(self, reply: Reply, prompt_tokens: int, waited_seconds: float) -> None:
        """A search has come back with something."""
        name, result, account = self._name, reply.result, reply.account
        if result.fallback is not None:
            self._fallbacks.labels(name, result.fallback.reason).inc()
        if result.stop_reason == "deadline":
            self._deadline_hits.labels(name).inc()
        returned = sum(len(each.tokens) for each in result.trajectories)
        self._prompt_tokens.labels(name).inc(prompt_tokens)
        self._returned.labels(name).inc(returned)
        for kind, tally in (
            ("policy", account.policy),
            ("rollout", account.rollout),
            ("critics", account.critics),
        ):
            self._generated.labels(name, kind).inc(tally.computed)
        self._queue.labels(name).observe(waited_seconds + reply.queue_seconds)
        self._search.labels(name).observe(reply.search_seconds)
        self._simulations.labels(name).observe(result.simulations)
        self._nodes.labels(name).observe(result.nodes)
        self._depth.labels(name).observe(result.depth)
        if returned:
            self._token_seconds.labels(name).observe(reply.search_seconds / returned)
            self._amplification.labels(name).observe(account.spent / returned)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mcts_{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"mcts_{name}",
            text,
            ["model_name", *labels],
            buckets=buckets,
            registry=self._registry,
        )


class _Engine(Collector):
    """The queue's and the engine's figures, read when they are asked for."""

    def __init__(self, model_name: str, admission: Admission, engine: Gauged) -> None:
        self._name = model_name
        self._admission = admission
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        gauges = self._engine.gauges
        queued = 0 if gauges is None else gauges.waiting
        running = max(0, self._admission.running - queued)
        yield self._gauge(
            "requests_waiting", "Searches that wait.", self._admission.waiting + queued
        )
        yield self._gauge("requests_running", "Searches that hold a place and run.", running)
        yield self._gauge("model_loaded", "1 once the model answers.", gauges is not None)
        if gauges is None:
            return
        yield self._gauge("searches_active", "Searches in the engine.", gauges.running)
        blocks = GaugeMetricFamily(
            "mcts_kv_blocks", "KV blocks of a model's pool.", labels=["model_name", "pool", "state"]
        )
        usage = GaugeMetricFamily(
            "mcts_kv_cache_usage_ratio",
            "Held over all KV blocks of a model's pool.",
            labels=["model_name", "pool"],
        )
        found = CounterMetricFamily(
            "mcts_prefix_cache_hit_tokens",
            "Prompt tokens whose KV an earlier request had left.",
            labels=["model_name", "pool"],
        )
        room = GaugeMetricFamily(
            "mcts_kv_pool_tokens",
            "Tokens that a model's KV pool has room for.",
            labels=["model_name", "pool"],
        )
        memory = GaugeMetricFamily(
            "mcts_kv_pool_bytes", "Memory of a model's KV pool.", labels=["model_name", "pool"]
        )
        for pool, gauge in gauges.pools.items():
            room.add_metric([self._name, pool], gauge.tokens)
            memory.add_metric([self._name, pool], gauge.bytes)
            for state in ("free", "held", "cached"):
                blocks.add_metric([self._name, pool, state], getattr(gauge, state))
            usage.add_metric([self._name, pool], gauge.held / gauge.total if gauge.total else 0.0)
            found.add_metric([self._name, pool], gauge.found_tokens)
        yield blocks
        yield room
        yield memory
        yield usage
        yield found
        yield self._gauge("engine_batch_size", "Rows of the engine's last step.", gauges.last_rows)
        yield self._gauge(
            "engine_heartbeat_age_seconds",
            "Since the engine's thread last came round.",
            gauges.heartbeat_age_seconds,
        )
        attention = GaugeMetricFamily(
            "mcts_attention_info", "Always 1.", labels=["model_name", "backend"]
        )
        attention.add_metric([self._name, gauges.attention], 1)
        yield attention
        yield self._count(
            "kv_blocks_read", "KV blocks that attention fetched.", gauges.kv_blocks_read
        )
        yield self._count(
            "kv_blocks_attended",
            "KV blocks that attention would fetch if rows did not share them.",
            gauges.kv_blocks_attended,
        )
        yield self._count("engine_steps", "Steps of the engine.", gauges.steps)
        yield self._count("engine_step_rows", "Rows of all steps.", gauges.step_rows)
        yield self._count("engine_busy_seconds", "Wall time of all steps.", gauges.step_seconds)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"mcts_{name}", text, labels=["model_name"])
        family.add_metric([self._name], value)
        return family

    def _count(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"mcts_{name}", text, labels=["model_name"])
        family.add_metric([self._name], value)
        return family

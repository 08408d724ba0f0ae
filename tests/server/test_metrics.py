"""The exposition parses, counts what was asked, and names nothing that a client wrote."""

from __future__ import annotations

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from mcts_core.attention import choose
from tests.server.conftest import PUZZLE

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(http: httpx.Client) -> Samples:
    response = http.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    wanted = {"model_name": "demo", **labels}
    return samples.get((name, tuple(sorted(wanted.items()))), 0.0)


def test_a_search_is_counted(http: httpx.Client) -> None:
    before = scrape(http)
    answer = http.post("/v1/completions", json={"model": "demo", "prompt": PUZZLE}).json()
    after = scrape(http)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    search, usage = answer["search"], answer["usage"]
    labels = {"endpoint": "/v1/completions", "status": "200", "method": "mcts"}
    assert grown("mcts_requests_total", **labels) == 1
    assert grown("mcts_prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("mcts_tokens_returned_total") == usage["completion_tokens"]
    for kind in ("policy", "rollout", "critics"):
        computed = search["tokens"][kind]["computed"]
        assert grown("mcts_tokens_generated_total", kind=kind) == computed
    assert grown("mcts_search_simulations_sum") == search["simulations"]
    assert grown("mcts_search_nodes_sum") == search["nodes"]
    assert grown("mcts_search_tree_depth_sum") == search["depth"]
    seconds = search["time_ms"]["search"] / 1000
    assert grown("mcts_search_duration_seconds_sum") == pytest.approx(seconds, abs=1e-3)
    for histogram in (
        "time_to_first_token_seconds",
        "time_per_output_token_seconds",
        "request_queue_seconds",
        "search_duration_seconds",
        "search_token_amplification",
    ):
        assert grown(f"mcts_{histogram}_count") == 1, histogram
    assert grown("mcts_request_duration_seconds_count", endpoint="/v1/completions") == 1
    assert grown("mcts_engine_steps_total") > 0
    assert grown("mcts_kv_blocks_attended_total") >= grown("mcts_kv_blocks_read_total") > 0


def test_the_gauges_describe_the_pools(http: httpx.Client) -> None:
    samples = scrape(http)
    assert value(samples, "mcts_model_loaded") == 1
    assert value(samples, "mcts_requests_waiting") == 0
    assert (
        value(samples, "mcts_attention_info", backend=choose("auto", torch.device("cpu")).name) == 1
    )
    pools = {dict(labels)["pool"] for name, labels in samples if name == "mcts_kv_blocks"}
    assert "policy" in pools
    for pool in pools:
        blocks = sum(
            value(samples, "mcts_kv_blocks", pool=pool, state=state)
            for state in ("free", "held", "cached")
        )
        tokens = value(samples, "mcts_kv_pool_tokens", pool=pool)
        assert tokens == blocks * 16
        per_token, rest = divmod(value(samples, "mcts_kv_pool_bytes", pool=pool), tokens + 16)
        assert (per_token > 100, rest) == (True, 0), "one block more is pinned"
        assert value(samples, "mcts_kv_blocks", pool=pool, state="free") > 0
        assert value(samples, "mcts_kv_cache_usage_ratio", pool=pool) == 0


def test_prompts_that_begin_alike_are_counted_as_found_for_the_same_tenant_only(
    http: httpx.Client,
) -> None:
    def found_for(salt: str) -> tuple[float, int]:
        before = value(scrape(http), "mcts_prefix_cache_hit_tokens_total", pool="policy")
        body = {"model": "demo:greedy", "prompt": 3 * PUZZLE, "max_tokens": 4, "cache_salt": salt}
        answer = http.post("/v1/completions", json=body).json()
        after = scrape(http)
        assert value(after, "mcts_kv_blocks", pool="policy", state="cached") > 0
        grown = value(after, "mcts_prefix_cache_hit_tokens_total", pool="policy") - before
        return grown, answer["search"]["tokens"]["spent"]

    new, first_spent = found_for("a tenant")
    again, spent = found_for("a tenant")
    other, _ = found_for("another tenant")
    assert new == other == 0
    assert again >= 16
    assert spent == first_spent, "the budget counts a prompt that was found"


def test_refusals_are_counted_without_the_clients_words(http: httpx.Client) -> None:
    http.post("/v1/completions", json={"model": "secret-name", "prompt": PUZZLE})
    http.get("/secret-route")
    samples = scrape(http)
    labels = {"endpoint": "/v1/completions", "status": "404", "method": ""}
    assert value(samples, "mcts_requests_total", **labels) >= 1
    assert value(samples, "mcts_requests_total", endpoint="other", status="404", method="") >= 1
    assert "secret" not in http.get("/metrics").text


def test_every_metric_is_ours_and_has_the_models_name(http: httpx.Client) -> None:
    for name, labels in scrape(http):
        assert name.startswith("mcts_")
        assert ":" not in name
        assert dict(labels)["model_name"] == "demo"


def test_head_and_openmetrics(http: httpx.Client) -> None:
    head = http.head("/metrics")
    assert head.status_code == 200
    assert head.content == b""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = http.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")

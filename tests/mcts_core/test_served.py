"""What would break: a served model that loads parts that do not fit, leaves a client waiting, or
holds KV for one that has gone."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
)

from critics.card import CriticError
from critics.head import Head, card_of, save_head
from mcts_core import served
from mcts_core.attention import AttentionRefused
from mcts_core.kv.sizing import PoolsTooSmall
from mcts_core.models.manifest import ManifestError
from mcts_core.query import Query, QueryError, Reply, TokenEvent
from mcts_core.search.parameters import SearchParameters
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Sampling

VOCABULARY = 2304
TOKENIZER = Path(__file__).parents[2] / "demo" / "checkpoints" / "policy"
POOL = 100_000


def checkpoint(folder: Path, *, head: bool = True, **fields: Any) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    kind: Any = AutoModelForCausalLM if head else AutoModel
    kind.from_config(LlamaConfig(**{**sizes, **fields})).save_pretrained(folder)


def build(
    folder: Path,
    *,
    rollout: dict[str, Any] | None = None,
    orm: dict[str, Any] | None = None,
    width: int = 32,
) -> Path:
    """A served folder of tiny random models."""
    checkpoint(folder / "policy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / "policy" / name)
    checkpoint(folder / "rollout", **(rollout or {}))
    checkpoint(folder / "orm", head=False, **(orm or {}))
    value, outcome = Head(width, 4), Head(32, 4)
    save_head(value, card_of(value, "value", "policy"), folder / "value")
    save_head(outcome, card_of(outcome, "orm", "own"), folder / "orm")
    (folder / "served.yaml").write_text(
        "policy: policy\nrollout: rollout\ncritics: {value: value, orm: orm}\n"
        "search: {method: mcts, budget: {simulations: 6}, critics: {value: 1, orm: 1},\n"
        "  step: {max_tokens: 6}, max_depth: 3, rollouts: {count: 1, max_tokens: 8}}\n"
    )
    return folder


def load(folder: Path, **settings: Any) -> served.ServedModel:
    return served.load(folder, name="tiny", **{"pool_tokens": POOL, "threads": 1, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("served"))


@pytest.fixture
def model(folder: Path) -> Iterator[served.ServedModel]:
    loaded = load(folder)
    yield loaded
    loaded.close()
    for name, pool in loaded.gauges().pools.items():
        assert pool.held == 0, name


def query(model: served.ServedModel, **fields: Any) -> Query:
    basis = Query(tuple(range(20, 40)), model.preset, Sampling(seed=3), max_tokens=16)
    return replace(basis, **fields)


def endless(model: served.ServedModel, **fields: Any) -> Query:
    """Runs until it is stopped."""
    budget = {"budget": {"simulations": 1_000_000, **fields}, "width": {"root": (900, 900)}}
    search = SearchParameters.model_validate({**budget, "max_depth": 32}).over(model.preset)
    return query(model, search=search, max_tokens=100)


async def ask(model: served.ServedModel, query: Query) -> Reply:
    *_, reply = [event async for event in model.search(query)]
    assert isinstance(reply, Reply)
    return reply


async def idle(model: served.ServedModel) -> None:
    for _ in range(500):
        gauges = model.gauges()
        if not gauges.running and not gauges.waiting:
            assert all(pool.held == 0 for pool in gauges.pools.values())
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the engine is still at it")


async def test_a_search_is_answered_the_same_every_time(model: served.ServedModel) -> None:
    first, *others = await asyncio.gather(*(ask(model, query(model)) for _ in range(3)))
    best = first.result.trajectories[0]
    assert set(best.scores) <= {"value", "orm"}
    assert best.scores
    assert all(other.result.trajectories == first.result.trajectories for other in others)
    assert all(other.account.spent == first.account.spent for other in others)
    await idle(model)


async def test_closing_the_generator_gives_everything_back(model: served.ServedModel) -> None:
    streamed = query(model, search=SearchParameters(method="sample"), stream=True, max_tokens=90)
    streamed = replace(streamed, sampling=Sampling(logit_bias=((1, -100.0),)))
    events = model.search(streamed)
    assert isinstance(await anext(events), TokenEvent)
    await events.aclose()
    await idle(model)
    task = asyncio.create_task(ask(model, endless(model)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle(model)


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *((method, "to its end") for method in ("mcts", "beam", "best_first", "best_of_n", "dvts")),
        *(("mcts", way) for way in ("deadline", "cancelled")),
    ],
)
async def test_a_search_leaves_nothing_to_the_collector(
    model: served.ServedModel, method: str, way: str
) -> None:
    """A tree of cycles would hold its memory, and its tensors the device's, until the collector
    came; and that would stop all requests for as long as all such trees need."""
    preset = model.preset.model_copy(update={"method": method})
    await ask(model, query(model, search=preset))  # what is made once is made
    await idle(model)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        if way == "to its end":
            await ask(model, query(model, search=preset))
        else:
            asked = endless(model, **({"deadline_ms": 200} if way == "deadline" else {}))
            asked = replace(asked, search=asked.search.model_copy(update={"method": method}))
            task = asyncio.create_task(ask(model, asked))
            await asyncio.wait([task], timeout=0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await idle(model)
        gc.collect()
        left = Counter(type(each).__name__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
    assert not {"Node", "Tree", "Job", "Run", "NodeState", "Tensor"} & left.keys(), left


async def test_a_deadline_returns_what_there_is(model: served.ServedModel) -> None:
    reply = await ask(model, endless(model, deadline_ms=400))
    assert reply.result.stop_reason == "deadline"
    assert reply.result.trajectories
    await idle(model)


async def test_closing_the_model_answers_searches_under_way(folder: Path) -> None:
    model = load(folder)
    tasks = [asyncio.create_task(ask(model, endless(model))) for _ in range(3)]
    await asyncio.sleep(0.2)
    await asyncio.to_thread(model.close)
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, SearchFailed)
    with pytest.raises(SearchFailed, match="shutting down"):
        await ask(model, query(model))
    assert all(pool.held == 0 for pool in model.gauges().pools.values())


async def test_two_served_models_live_in_one_process(
    model: served.ServedModel, folder: Path
) -> None:
    other = load(folder, block_size=4, max_batch_rows=64)
    mine, theirs = await asyncio.gather(ask(model, query(model)), ask(other, query(other)))
    assert mine.result.trajectories
    assert theirs.result.trajectories
    other.close()
    assert (await ask(model, query(model))).result.trajectories == mine.result.trajectories


async def test_low_precision_is_searched_too(folder: Path) -> None:
    model = load(folder, dtype="bfloat16")
    assert (await ask(model, query(model))).result.trajectories
    model.close()


@pytest.mark.parametrize("method", ["mcts", "beam", "best_of_n"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_searches_in_a_pool_that_is_much_too_small_are_those_that_had_room(
    folder: Path, dtype: str, method: str
) -> None:
    search = {"method": method, "budget": {"simulations": 24}, "parallel": 6, "max_depth": 5}

    async def together(model: served.ServedModel) -> list[Reply]:
        params = SearchParameters.model_validate(search).over(model.preset)
        prompt = tuple(range(20, 60))
        queries = [
            query(model, search=params, sampling=Sampling(seed=seed), prompt=prompt[: 37 + seed])
            for seed in range(4)
        ]
        replies = await asyncio.gather(*(ask(model, each) for each in queries))
        await idle(model)
        model.close()
        return list(replies)

    roomy = await together(load(folder, block_size=4, dtype=dtype))
    tight = await together(load(folder, block_size=4, pool_tokens=84, dtype=dtype))
    for ours, theirs in zip(tight, roomy, strict=True):
        assert replace(ours.result, first_simulation_seconds=None) == replace(
            theirs.result, first_simulation_seconds=None
        )
        assert ours.account.spent == theirs.account.spent
    computed = [sum(reply.account.policy.computed for reply in each) for each in (tight, roomy)]
    assert computed[0] > computed[1]


def test_what_cannot_be_served_is_named_by_its_field(model: served.ServedModel) -> None:
    def field(**fields: Any) -> str:
        with pytest.raises(QueryError) as caught:
            model.validate(query(model, **fields))
        return caught.value.field

    assert field(prompt=()) == "prompt"
    assert field(prompt=(5,) * 128) == "prompt"
    assert field(prompt=(VOCABULARY,)) == "prompt"
    assert field(prompt=(-1,)) == "prompt"
    assert field(sampling=Sampling(logit_bias=((VOCABULARY, 1.0),))) == "logit_bias"
    unknown = SearchParameters(critics={"oracle": 1.0})
    assert field(search=unknown) == "search.critics.oracle"


async def test_a_critic_with_a_shorter_context_is_lost_and_said_so(tmp_path: Path) -> None:
    model = load(build(tmp_path, orm={"max_position_embeddings": 21}))
    reply = await ask(model, query(model))
    assert reply.result.trajectories
    assert reply.result.details is not None
    assert "context of 21" in reply.result.details["critics_lost"]["orm"]
    model.close()


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"rollout": {"vocab_size": 2000}}, ManifestError, "rollout model's vocabulary of 2000"),
        ({"orm": {"vocab_size": 2000}}, CriticError, "'orm' knows 2000 tokens"),
        ({"orm": {"hidden_size": 16}}, CriticError, "'orm' reads hidden states of width 32"),
        ({"width": 24}, CriticError, "'value' reads hidden states of width 24"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_at_load(
    tmp_path: Path, parts: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(build(tmp_path, **parts))


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ("rollout", ManifestError, "the rollout model does not share the policy's tokenizer"),
        ("orm", CriticError, "critic 'orm' does not share the policy's tokenizer"),
    ],
)
def test_another_token_map_of_the_same_size_is_refused(
    tmp_path: Path, part: str, error: type[Exception], message: str
) -> None:
    folder = build(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / part / name)
    load(folder).close()
    path = folder / part / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    ids = tokenizer["model"]["vocab"]
    first, second = list(ids)[-2:]
    ids[first], ids[second] = ids[second], ids[first]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(error, match=message) as refused:
        load(folder)
    assert "2 tokens differ" in str(refused.value)


@pytest.mark.parametrize(
    "kind", [AutoModelForTokenClassification, AutoModelForSequenceClassification]
)
async def test_a_transformers_classifier_is_a_critic(tmp_path: Path, kind: Any) -> None:
    folder = build(tmp_path)
    torch.manual_seed(0)
    policy = AutoConfig.from_pretrained(folder / "policy")
    classifier = kind.from_config(LlamaConfig(**policy.to_dict() | {"num_labels": 2})).eval()
    classifier.save_pretrained(folder / "judge")
    card = {"kind": "prm", "trunk": "own", "head": "classifier", "read": "step_end"}
    (folder / "judge" / "critic.json").write_text(
        json.dumps({**card, "activation": "softmax", "label": 1})
    )
    (folder / "served.yaml").write_text("policy: policy\ncritics: {judge: judge}\n")
    model = load(folder)
    search = SearchParameters(method="best_of_n", critics={"judge": 1.0})
    asked = query(model, search=search)
    reply = await ask(model, asked)
    best = reply.result.trajectories[0]
    tokens = torch.tensor([[*asked.prompt, *best.tokens]])
    with torch.no_grad():
        logits = classifier(input_ids=tokens).logits.reshape(-1, 2)[-1]
    assert best.scores["judge"] == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
    model.close()


@pytest.mark.parametrize("setting", [{"pool_tokens": 16}, {"block_size": 0}])
def test_a_pool_that_holds_nothing_is_refused(folder: Path, setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="KV"):
        load(folder, **setting)


def test_pools_follow_the_memory_unless_their_size_is_given(folder: Path) -> None:
    sized = load(folder, pool_tokens=None)
    for pool in sized.gauges().pools.values():
        assert pool.tokens == 65_536
        assert pool.bytes % (65_536 + 16) == 0
    sized.close()
    given = load(folder, pool_tokens=1024, kv_memory_share=1e-9)
    assert {pool.tokens for pool in given.gauges().pools.values()} == {1024}
    given.close()


def test_memory_for_less_than_one_context_is_refused_by_the_settings_names(folder: Path) -> None:
    with pytest.raises(PoolsTooSmall, match=r"128 tokens.*'kv_memory_share'.*'pool_tokens'"):
        load(folder, pool_tokens=None, kv_memory_share=1e-9)


def test_attention_that_cannot_work_here_is_refused(folder: Path) -> None:
    with pytest.raises(AttentionRefused, match=r"needs an NVIDIA GPU.*use attention 'cpu'"):
        load(folder, attention="triton")
    with pytest.raises(AttentionRefused, match="'flush' is not one of auto, native, cpu, triton"):
        load(folder, attention="flush")


@pytest.mark.parametrize("block_size", [1, 5, 16, 64, 256])
def test_the_smallest_pool_that_is_allowed_serves(folder: Path, block_size: int) -> None:
    least = next(
        tokens for tokens in range(block_size, 4096, block_size) if tokens >= 64 + 2 * block_size
    )
    load(folder, pool_tokens=least, block_size=block_size).close()

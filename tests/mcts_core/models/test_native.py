"""What would break: the compiled decoder giving other logits than the model's own full forward, or
bits that depend on the batch, on the slices of a prompt, on sharing or on the number of threads."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from mcts_core import kernels
from mcts_core.attention import CPU, AttentionRefused, choose
from mcts_core.engine.resident import Resident
from mcts_core.kernels import Library, best_library, libraries
from mcts_core.kv.branch import Branch, Copies, Ledger
from mcts_core.models.decoder import Rows
from mcts_core.models.load import decoder_of
from mcts_core.models.native import NativeDecoder, refusal_of

VOCABULARY = 97
SIZES: dict[str, Any] = {  # none of them fills its panels of 32 outputs
    "vocab_size": VOCABULARY,
    "hidden_size": 42,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
_WINDOW: dict[str, Any] = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"],
}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-one-head": LlamaConfig(
        **SIZES | {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 80}
    ),
    "llama-even": LlamaConfig(  # what tiles are for: all its sums are multiples of 32 long
        **SIZES | {"hidden_size": 96, "intermediate_size": 96, "head_dim": 64}
    ),
    "llama-scaled-rope": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-window": Qwen2Config(**SIZES, use_sliding_window=True, **_WINDOW),
    "qwen2-tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
    "mistral-window": MistralConfig(**SIZES, sliding_window=7),
}


@pytest.fixture(scope="module", params=["amx", "avx512_bf16", "avx512", "avx2"])
def library(request: pytest.FixtureRequest) -> Library:
    for found in libraries():
        if found.name == request.param:
            return found
    pytest.skip(f"this CPU cannot run the kernel {request.param}, or it was not built")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A random model whose biases and norms are random too."""
    torch.manual_seed(0)
    config = type(FAMILIES[family])(**FAMILIES[family].to_dict())
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return model.to(dtype)


def seat(model: Any, library: Library, *, share: bool = True, blocks: int = 300) -> Resident:
    assert refusal_of(model, library, 16) is None
    return Resident(
        NativeDecoder(model, library, share=share),
        heads={},
        blocks=blocks,
        block_size=16,
        dtype=model.dtype,
        device=torch.device("cpu"),
    )


def full(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def step(resident: Resident, work: list[tuple[Branch, list[int]]]) -> list[torch.Tensor]:
    """One forward; the logits after each branch's last new token, or its hidden state."""
    copies: Copies = []
    rows = []
    for branch, tokens in work:
        start = branch.length
        copies += branch.grow(len(tokens))
        rows.append(Rows(branch, tokens, start, [len(tokens) - 1]))
    computed = resident.forward(rows, copies)
    return list((computed.hidden if computed.logits is None else computed.logits).unbind(0))


@torch.inference_mode()
def spoil(resident: Resident) -> None:
    """What is read must have been written."""
    for pair in resident.storage._layers.values():
        for tensor in pair:
            tensor.fill_(1e4)


def text(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_branches_gives_the_logits_of_full_forwards(
    family: str, library: Library
) -> None:
    model, rng = make(family), random.Random(1)
    resident = seat(model, library)
    ledger = Ledger()
    trunk = Branch(resident.pool, ledger)
    prompt = text(1, 75)
    step(resident, [(trunk, prompt[:2])])
    spoil(resident)
    trunk.truncate(0)
    step(resident, [(trunk, prompt[:19])])
    found = step(resident, [(trunk, prompt[19:])])
    expected = [full(model, prompt)[-1]]
    branches = [(trunk, prompt)]
    branches += [(trunk.fork(at), prompt[:at]) for at in range(47, 76)]
    for _ in range(5):
        rng.shuffle(branches)
        work = []
        for index, (branch, tokens) in enumerate(branches):
            fresh = [rng.randrange(VOCABULARY) for _ in range(rng.choice((1, 1, 2, 5, 18)))]
            work.append((branch, fresh))
            branches[index] = (branch, tokens + fresh)
        found += step(resident, work)
        expected += [full(model, tokens)[-1] for _, tokens in branches]
        shorter, tokens = branches[0]
        shorter.truncate(len(tokens) - 2)
        branches[0] = (shorter, tokens[:-2])
    assert (torch.stack(found) - torch.stack(expected)).abs().max() < 1e-5
    assert resident.reads.read < resident.reads.attended
    ledger.release_all()
    resident.pool.check_integrity()
    assert resident.pool.held == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "llama-even", "qwen2-window", "qwen3"])
def test_bits_depend_on_nothing_but_the_sequence(
    family: str, dtype: torch.dtype, library: Library
) -> None:
    if dtype not in library.dtypes:
        pytest.skip("this kernel has no bfloat16")
    model, rng = make(family, dtype), random.Random(2)
    prompt, twigs = text(2, 70), [text(100 + n, 1 + n % 7) for n in range(21)]

    def decode(order: list[int], *, share: bool, sliced: bool) -> dict[int, torch.Tensor]:
        resident, ledger = seat(model, library, share=share), Ledger()
        trunk = Branch(resident.pool, ledger)
        at = 0
        while at < len(prompt):
            count = rng.randint(1, 20) if sliced else len(prompt)
            step(resident, [(trunk, prompt[at : at + count])])
            at += count
        work = [(trunk.fork(), twigs[n]) for n in order]
        found = step(resident, work)
        ledger.release_all()
        return dict(zip(order, found, strict=True))

    expected = decode(list(range(21)), share=True, sliced=False)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for order in ([4], [0, 1], [20, 3, 7], rng.sample(range(21), 21)):
            for share in (True, False):
                for n, logits in decode(order, share=share, sliced=True).items():
                    assert torch.equal(logits, expected[n]), (threads, order, share)


@pytest.mark.parametrize("family", ["llama-biases", "llama-even", "qwen3"])
def test_bfloat16_is_as_near_to_float32_as_the_models_own(family: str, library: Library) -> None:
    if torch.bfloat16 not in library.dtypes:
        pytest.skip("this kernel has no bfloat16")
    model, tokens = make(family, torch.bfloat16), text(3, 60)
    resident = seat(model, library)
    branch = Branch(resident.pool, Ledger())
    ours = [step(resident, [(branch, [token])])[0] for token in tokens]
    theirs = full(model, tokens).float()
    exact = full(model.float(), tokens)
    assert (torch.stack(ours) - exact).abs().mean() <= (theirs - exact).abs().mean()


def test_a_critics_trunk_gives_its_hidden_states(library: Library) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES, num_labels=3)
    model = AutoModelForTokenClassification.from_config(config).eval().requires_grad_(False)
    tokens = text(4, 40)
    resident = seat(model.base_model, library)
    (hidden,) = step(resident, [(Branch(resident.pool, Ledger()), tokens)])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    assert torch.allclose(model.score(hidden), expected, atol=1e-5)


def test_numbers_out_of_range_are_refused_before_anything_is_written(library: Library) -> None:
    resident = seat(make("llama"), library)
    branch = Branch(resident.pool, Ledger())
    for token in (VOCABULARY, -1):
        copies = branch.grow(2)
        with pytest.raises(ValueError, match="token id is not in the model's vocabulary"):
            resident.forward([Rows(branch, [5, token], 0, [1])], copies)
        branch.truncate(0)
    copies = branch.grow(260)
    with pytest.raises(ValueError, match="position"):
        resident.forward([Rows(branch, text(0, 260), 0, [259])], copies)
    assert all(not tensor.any() for pair in resident.storage._layers.values() for tensor in pair)


def test_a_row_that_is_not_finite_spoils_no_other(library: Library) -> None:
    model = make("llama")
    model.get_input_embeddings().weight[7] = float("nan")
    resident, ledger = seat(model, library), Ledger()

    def decode(tokens: list[list[int]]) -> list[torch.Tensor]:
        return step(resident, [(Branch(resident.pool, ledger), each) for each in tokens])

    (expected,) = decode([[3, 4, 5]])
    sick, healthy = decode([[3, 4, 7], [3, 4, 5]])
    assert sick.isnan().all()
    assert torch.equal(healthy, expected)


def test_shared_blocks_are_read_once(library: Library) -> None:
    resident, ledger = seat(make("llama"), library), Ledger()
    trunk = Branch(resident.pool, ledger)
    step(resident, [(trunk, text(5, 160))])
    twigs = [trunk.fork() for _ in range(8)]
    resident.reads.read = resident.reads.attended = 0
    step(resident, [(twig, [n]) for n, twig in enumerate(twigs)])
    layers = 2
    assert resident.reads.attended == layers * 8 * 11
    assert resident.reads.read == layers * (10 + 8)


def test_a_pool_of_another_size_is_found(library: Library) -> None:
    model, tokens = make("llama"), text(6, 30)
    resident = seat(model, library, blocks=4)
    for blocks in (9, 5):
        ledger = Ledger()
        step(resident, [(Branch(resident.pool, ledger), tokens[:3])])
        ledger.release_all()
        resident.resize(blocks)
        (found,) = step(resident, [(Branch(resident.pool, ledger), tokens)])
        assert torch.allclose(found, full(model, tokens)[-1], atol=1e-5)
        ledger.release_all()


def test_what_the_kernel_cannot_run_is_named(library: Library) -> None:
    assert refusal_of(make("llama"), library, 4) == "blocks of 4 tokens are no multiple of 16"
    half = make("llama", torch.float16)
    assert refusal_of(half, library, 16) == "this CPU's kernel has no torch.float16"
    config = Gemma2Config(**SIZES | {"head_dim": 16})
    gemma = AutoModelForCausalLM.from_config(config)
    assert refusal_of(gemma, library, 16) == "its type is gemma2"
    narrow = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | {"head_dim": 8}))
    assert refusal_of(narrow, library, 16) == "its heads' width of 8 is no multiple of 16"


def test_a_library_from_other_sources_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Longer(ctypes.Structure):
        _fields_ = [("more", ctypes.c_int64 * 100)]

    monkeypatch.setattr(kernels.library, "Step", Longer)
    with pytest.raises(OSError, match="built from other sources: install mcts-serve again"):
        best_library()


def test_a_model_is_run_by_the_fastest_kernel_where_it_can_be(library: Library) -> None:
    backend = choose("native", torch.device("cpu"))
    assert decoder_of(make("llama"), backend, 16).name == next(libraries()).name
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES))
    for model, attention, block_size in (
        (gemma, backend, 16),
        (make("llama"), backend, 8),
        (make("llama"), CPU, 16),
    ):
        assert decoder_of(model, attention, block_size).name == "modules"
    with pytest.raises(AttentionRefused, match="'native' needs a CPU"):
        choose("native", torch.device("cuda"))

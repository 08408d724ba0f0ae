"""What would break: logits that differ from the model's own full forward, after chunked prefill,
forks in mid-block, truncation and copy-on-write; or that depend on what else is in the batch."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from mcts_core.attention.interface import CHUNK_TOKENS
from mcts_core.engine.resident import Resident
from mcts_core.kv.branch import Branch, Copies, Ledger
from mcts_core.models.decoder import Rows
from tests.mcts_core.models_zoo import CLASSIFIERS, FAMILIES, VOCABULARY, make, seat

GARBAGE = 1e4


def full(model: Any, tokens: list[int]) -> torch.Tensor:
    """The model's own eager forward: logits `[tokens, vocabulary]`; of a classifier
    `[tokens, labels]`, or `[labels]` of the last token."""
    ours = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    model.set_attn_implementation(ours)
    return logits


def last(model: Any, tokens: list[int]) -> torch.Tensor:
    logits = full(model, tokens)
    return logits[-1] if logits.dim() == 2 else logits


def step(
    resident: Resident, work: list[tuple[Branch, list[int]]], linear: Any = None
) -> list[torch.Tensor]:
    """One forward; the logits after each branch's last new token, of the language head or of
    `linear` on a trunk's hidden states."""
    copies: Copies = []
    rows = []
    for branch, tokens in work:
        start = branch.length
        copies += branch.grow(len(tokens))
        rows.append(Rows(branch, tokens, start, [len(tokens) - 1]))
    computed = resident.forward(rows, copies)
    logits = computed.logits if linear is None else linear(computed.hidden)
    assert logits is not None
    return list(logits.unbind(0))


@torch.inference_mode()
def spoil(resident: Resident, garbage: float = GARBAGE) -> None:
    """Fills the pool with garbage, but for the padding block: what is read must have been
    written."""
    for pair in resident.storage._layers.values():
        for tensor in pair:
            tensor[:, resident.pool.block_size :] = garbage


@pytest.mark.parametrize("family", [*FAMILIES, *CLASSIFIERS])
def test_a_tree_of_branches_gives_the_logits_of_full_forwards(family: str) -> None:
    model = make(family)
    resident = seat(model.base_model if family in CLASSIFIERS else model)
    linear = getattr(model, "score", None)
    rng = random.Random(1)
    text = [rng.randrange(3, VOCABULARY) for _ in range(60)]
    ledger = Ledger()
    trunk = Branch(resident.pool, ledger)
    step(resident, [(trunk, text[:2])], linear)
    spoil(resident)
    trunk.truncate(0)
    step(resident, [(trunk, text[: CHUNK_TOKENS + 3])], linear)
    found = step(resident, [(trunk, text[CHUNK_TOKENS + 3 : 24])], linear)
    branches = [(trunk, text[:24])]
    expected = [last(model, text[:24])]
    for at in range(17, 25):
        twig = trunk.fork(at)
        branches.append((twig, text[:at]))
    for _ in range(6):
        rng.shuffle(branches)
        work = []
        for index, (branch, tokens) in enumerate(branches):
            fresh = [rng.randrange(3, VOCABULARY) for _ in range(rng.choice((1, 1, 2, 5)))]
            work.append((branch, fresh))
            branches[index] = (branch, tokens + fresh)
        found += step(resident, work, linear)
        expected += [last(model, tokens) for _, tokens in branches]
        shorter, tokens = branches[0]
        shorter.truncate(len(tokens) - 2)
        branches[0] = (shorter, tokens[:-2])
    difference = (torch.stack(found) - torch.stack(expected)).abs().max()
    assert difference < 1e-5
    ledger.release_all()
    resident.pool.check_integrity()
    assert resident.pool.held == 0


def test_a_fork_at_every_offset_of_a_block_reads_its_own_past_whoever_writes_first() -> None:
    model = make("llama")
    resident = seat(model)
    text = list(range(3, 20))
    for offset in range(resident.pool.block_size + 1):
        for twig_first in (True, False):
            ledger = Ledger()
            trunk = Branch(resident.pool, ledger)
            step(resident, [(trunk, text[: 4 + offset])])
            spoiled = Branch(resident.pool, ledger)
            step(resident, [(spoiled, [90, 91, 92, 93, 94])])
            spoiled.release()
            twig = trunk.fork()
            order = [(twig, [50]), (trunk, [60])]
            answers = {}
            for branch, tokens in order if twig_first else order[::-1]:
                answers[tokens[0]] = step(resident, [(branch, tokens)])[0]
            for token, logits in answers.items():
                expected = full(model, [*text[: 4 + offset], token])[-1]
                assert torch.allclose(logits, expected, atol=1e-5), (offset, twig_first)
            ledger.release_all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2-softcap"])
def test_a_rows_logits_are_the_same_bits_whatever_else_is_in_the_batch(family: str) -> None:
    resident = seat(make(family), blocks=2000)
    rng = random.Random(2)
    ledger = Ledger()
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(9 + 3 * n)] for n in range(40)]

    def decode(count: int) -> list[torch.Tensor]:
        order = list(range(count))
        rng.shuffle(order)
        branches = {n: Branch(resident.pool, ledger) for n in order}
        step(resident, [(branches[n], prompts[n][:-1]) for n in order])
        answers = step(resident, [(branches[n], prompts[n][-1:]) for n in order])
        by_prompt = dict(zip(order, answers, strict=True))
        return [by_prompt[n] for n in range(count)]

    reference = decode(40)
    for count in (1, 2, 3, 7, 13, 17, 31):
        for alone, together in zip(decode(count), reference, strict=False):
            assert torch.equal(alone, together)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_over_a_long_prompt_gives_the_logits_of_full_forwards_and_bits_of_its_own(
    family: str,
) -> None:
    model = make(family)
    resident = seat(model, blocks=600)
    prompt = [3 + n * n % (VOCABULARY - 3) for n in range(90)]
    twigs = [[3 + n, *(5 + n + m for m in range(n % 9))] for n in range(20)]

    def decode(order: list[int]) -> dict[int, torch.Tensor]:
        ledger = Ledger()
        trunk = Branch(resident.pool, ledger)
        step(resident, [(trunk, prompt)])
        branches = {n: trunk.fork() for n in order}
        for depth in range(9):
            growing = [n for n in order if depth < len(twigs[n]) - 1]
            if growing:
                step(resident, [(branches[n], [twigs[n][depth]]) for n in growing])
        found = step(resident, [(branches[n], twigs[n][-1:]) for n in order])
        ledger.release_all()
        return dict(zip(order, found, strict=True))

    together = decode(list(range(20)))
    assert resident.reads.read <= resident.reads.attended
    for n, logits in together.items():
        assert torch.allclose(logits, full(model, prompt + twigs[n])[-1], atol=1e-5)
    for order in ([0], [19], [3, 17], [7, 2, 11, 5, 13, 8, 1, 16, 10]):
        for n, logits in decode(order).items():
            assert torch.equal(logits, together[n])


def test_a_long_prompt_in_slices_is_the_same_as_at_once() -> None:
    model = make("mistral-window")
    resident = seat(model)
    text = [3 + n % (VOCABULARY - 3) for n in range(100)]
    branch = Branch(resident.pool, Ledger())
    for start in range(0, 100, 32):
        found = step(resident, [(branch, text[start : start + 32])])
    assert torch.allclose(found[0], full(model, text)[-1], atol=1e-5)


def test_scrubbing_a_branch_keeps_its_bad_values_from_the_next_owner() -> None:
    model = make("llama")
    resident = seat(model, blocks=3)
    sick = Branch(resident.pool, Ledger())
    step(resident, [(sick, [3, 4, 5, 6, 7])])
    spoil(resident, float("nan"))
    with torch.inference_mode():
        resident.scrub(sick)
    sick.release()
    healthy = Branch(resident.pool, Ledger())
    found = step(resident, [(healthy, [8, 9])])
    assert torch.allclose(found[0], full(model, [8, 9])[-1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_begun_at_the_end_of_any_tile_is_the_same_bits_as_at_once(family: str) -> None:
    """What a later prompt finds in the cache was computed in another prompt's slices."""
    resident = seat(make(family), blocks=400)
    ledger = Ledger()
    text = [3 + 7 * n % (VOCABULARY - 3) for n in range(75)]
    whole = Branch(resident.pool, ledger)
    (expected,) = step(resident, [(whole, text)])
    for at in range(CHUNK_TOKENS, len(text), CHUNK_TOKENS):
        earlier = Branch(resident.pool, ledger)
        step(resident, [(earlier, [*text[:at], 90, 91])])
        later = earlier.fork(at)
        step(resident, [(later, text[at : at + CHUNK_TOKENS])] if at < 64 else [(earlier, [92])])
        (logits,) = step(resident, [(later, text[later.length :])])
        assert torch.equal(logits, expected), at
    ledger.release_all()

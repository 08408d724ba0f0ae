"""Batched sampling with a KV cache, for training data and measurements (not for serving)."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from demo.tokenizer import EOS_ID


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    prefixes: Sequence[Sequence[int]],
    generator: torch.Generator,
    temperature: float,
    stops: frozenset[int] = frozenset({EOS_ID}),
    max_tokens: int = 72,
    rows: int = 512,
) -> list[list[int]]:
    """Continue every prefix until a stop token (kept) or `max_tokens`; 0 temperature is greedy.

    Prefixes of one length share a batch of at most `rows`."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prefix in enumerate(prefixes):
        by_length[len(prefix)].append(index)
    made: list[list[int]] = [[] for _ in prefixes]
    for indices in by_length.values():
        for start in range(0, len(indices), rows):
            chunk = indices[start : start + rows]
            ids = torch.tensor([list(prefixes[index]) for index in chunk])
            found = _sample(model, ids, generator, temperature, stops, max_tokens)
            for index, continuation in zip(chunk, found, strict=True):
                made[index] = continuation
    return made


def _sample(
    model: LlamaForCausalLM,
    ids: Tensor,  # [rows, length]
    generator: torch.Generator,
    temperature: float,
    stops: frozenset[int],
    max_tokens: int,
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in range(len(ids))]
    alive = list(range(len(ids)))
    cache = DynamicCache(config=model.config)
    for _ in range(max_tokens):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1].float()  # [rows, vocabulary]
        if temperature > 0:
            noise = torch.empty_like(logits).exponential_(generator=generator)
            tokens = (torch.softmax(logits / temperature, -1) / noise).argmax(-1)
        else:
            tokens = logits.argmax(-1)
        keep: list[int] = []
        for row, token in enumerate(tokens.tolist()):
            made[alive[row]].append(token)
            if not _ended(made[alive[row]], stops):
                keep.append(row)
        if not keep:
            break
        if len(keep) < len(alive) * 0.8:  # finished rows ride along until dropping them pays
            cache.batch_select_indices(torch.tensor(keep))
            alive = [alive[row] for row in keep]
            tokens = tokens[keep]
        ids = tokens[:, None]
    return [_cut(row, stops) for row in made]


def _ended(row: list[int], stops: frozenset[int]) -> bool:
    return not stops.isdisjoint(row)


def _cut(row: list[int], stops: frozenset[int]) -> list[int]:
    end = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
    return row[: end + 1]

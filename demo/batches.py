"""Samples as tensors: token ids, soft next-token targets, labelled positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.corpus import Sample
from demo.judge import judge_choices
from demo.tokenizer import EOS_ID, PAD_ID

_WAYS = 4


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. N counts language-model targets, M counts labelled positions;
    positions index the flattened [rows * length]."""

    ids: Tensor  # [rows, length] int64
    at: Tensor  # [N] int64, the position that predicts
    target_ids: Tensor  # [N, 4] int64
    target_shares: Tensor  # [N, 4] float32, each row sums to 1
    judged_at: Tensor  # [M] int64
    labels: Tensor  # [M] float32
    depth: Tensor  # [M] int64, as of `traces.Trace`


class Encoder:
    """Turns samples into batches with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._equals = self._vocabulary["\u0120="]

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """One row a sample, the length rounded up to a multiple of 4; an answered sample ends in
        EOS. The choices of solutions (samples with choices) and their answers are language-model
        targets, not what their steps come to: that could be guessed from the target. Of lines whose
        results are to be learned, what stands behind the `=` is one; where nothing
        could win before the line, so is all of it: no choice is better there than another."""
        texts = [line for sample in samples for line in (sample.puzzle.prompt, *sample.lines)]
        pieces = iter(self._tokenizer(texts)["input_ids"])
        rows: list[list[int]] = []
        targets: list[tuple[int, int, list[tuple[int, float]]]] = []
        judged: list[tuple[int, int, int, int]] = []
        for number, sample in enumerate(samples):
            row = list(next(pieces))
            choices_made: Sequence[int | None] = (None,) * len(sample.lines)
            if sample.labels:
                judged.append((number, len(row) - 1, sample.labels[0], 0))
                choices_made = judge_choices(sample.puzzle, sample.lines)
            for place, line in enumerate(sample.lines):
                start, answer = len(row), line.startswith("Answer:")
                row += next(pieces)
                right = choices_made[place]
                if right is not None and self._equals in row[start:]:
                    judged.append((number, row.index(self._equals, start), right, -2 - place))
                if answer:
                    row.append(EOS_ID)
                if sample.choices:
                    choices = dict(sample.choices[place])
                    end = len(row) if answer else row.index(self._equals, start) + 1
                    for offset, token in enumerate(row[start:end]):
                        ways = self._ways(choices.get(offset, {}), offset) or [(token, 1.0)]
                        targets.append((number, start + offset - 1, ways))
                elif place < sample.results:
                    whole = answer or (bool(sample.labels) and not sample.labels[place])
                    first = start if whole else row.index(self._equals, start) + 1
                    targets += [(number, at - 1, [(row[at], 1.0)]) for at in range(first, len(row))]
                if sample.labels:
                    depth = -1 if answer else place + 1
                    judged.append((number, len(row) - 1, sample.labels[place + 1], depth))
            rows.append(row)
        length = -(-max(map(len, rows)) // 4) * 4
        padding = [(PAD_ID, 0.0)] * _WAYS
        padded = [(ways + padding)[:_WAYS] for _, _, ways in targets]
        return Batch(
            ids=torch.tensor([row + [PAD_ID] * (length - len(row)) for row in rows]),
            at=torch.tensor([number * length + at for number, at, _ in targets], dtype=torch.long),
            target_ids=torch.tensor(
                [[token for token, _ in ways] for ways in padded], dtype=torch.long
            ).view(-1, _WAYS),
            target_shares=torch.tensor(
                [[share for _, share in ways] for ways in padded], dtype=torch.float32
            ).view(-1, _WAYS),
            judged_at=torch.tensor(
                [number * length + at for number, at, _, _ in judged], dtype=torch.long
            ),
            labels=torch.tensor([float(label) for _, _, label, _ in judged]),
            depth=torch.tensor([depth for _, _, _, depth in judged], dtype=torch.long),
        )

    def _ways(self, shares: dict[str, float], offset: int) -> list[tuple[int, float]]:
        prefix = "" if offset == 0 else "\u0120"
        ways = [(self._vocabulary.get(prefix + text), share) for text, share in shares.items()]
        known = [(token, share) for token, share in ways if token is not None]
        return known if len(known) == len(ways) else []

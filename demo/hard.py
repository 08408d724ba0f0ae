"""What an outcome critic misjudges, for the critics to learn from.

Of a hundred lies all but one teach a trained critic nothing any more. So far more are made than can
be learned from, and those that fool it most are kept (hard-example mining: Shrivastava et al.,
2016), beside right trajectories that it doubts: labels are exact, a great loss is no noise.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaModel, PreTrainedTokenizerFast

from critics.head import Head
from demo.corpus import Corpus, Sample
from demo.pool import Mixture, Part
from demo.traces import Trace, read, trace_of_sample

_PARTS: tuple[Part, ...] = ("policy", "critics")
_AT_ONCE = 8192
"""Traces whose hidden states are held together."""


def candidates(
    count: int, seed: int, mixture: Mixture, tokenizer: PreTrainedTokenizerFast
) -> list[Trace]:
    """`count` trajectories of training puzzles: lies of every kind, dead ends, right ones."""
    rng = random.Random(seed)
    corpora = [Corpus(seed + at, mixture, part) for at, part in enumerate(_PARTS)]
    makers: list[Callable[[Corpus], Sample]] = [
        Corpus.drawn_lie,
        Corpus.drawn_lie,
        Corpus.late_lie,
        Corpus.early_lie,
        Corpus.dead_end,
        Corpus.solution,
    ]
    made = (rng.choice(makers)(rng.choice(corpora)) for _ in range(count))
    return [trace_of_sample(sample, tokenizer) for sample in made]


def hardest(trunk: LlamaModel, head: Head, traces: Sequence[Trace], keep: int) -> list[Trace]:
    """The `keep` traces of whose grade the outcome critic `head` is surest and wrong: half of them
    right, half wrong. With more right ones it learns that what looks like them is right."""
    lost = torch.cat(
        [
            _losses(trunk, head, traces[start : start + _AT_ONCE])
            for start in range(0, len(traces), _AT_ONCE)
        ]
    )
    grades = torch.tensor([trace.won for trace in traces])
    kept: list[int] = []
    for grade in (0, 1):
        own = (grades == grade).nonzero().flatten()
        kept += own[lost[own].topk(min(keep // 2, len(own))).indices].tolist()
    return [traces[at] for at in kept]


@torch.inference_mode()
def _losses(trunk: LlamaModel, head: Head, traces: Sequence[Trace]) -> Tensor:
    """Cross-entropy of each trace's grade -> [traces]."""
    ends = read(trunk, traces)
    ends = ends.only(ends.depth == -1)
    losses = functional.binary_cross_entropy_with_logits(
        head.logits(ends.hidden), ends.won, reduction="none"
    )
    return torch.zeros(len(traces)).index_copy_(0, ends.trace, losses.float())

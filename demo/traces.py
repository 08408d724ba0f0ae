"""What a policy wrote, with exact labels at the positions that critics read."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from demo.corpus import Corpus, Sample
from demo.judge import judge, judge_choices
from demo.pool import Mixture, Part
from demo.puzzle import Puzzle, grade
from demo.sampler import sample
from demo.tokenizer import EOS_ID, PAD_ID

_EQUALS = "\u0120="
_TRAINING: tuple[Part, ...] = ("policy", "critics")


@dataclass(frozen=True)
class Trace:
    """A prompt and its completion as ids. `ends` are the positions of the prompt's last token,
    of each line's last token and of EOS (or whatever came last), and of the first `=` of each line;
    `labels` the exact judgement there, `depth` the number of steps before (-1: finished; -2, -3 and
    on: the first, the second choice and on), `won` the grade."""

    puzzle: Puzzle
    ids: tuple[int, ...]
    ends: tuple[int, ...]
    depth: tuple[int, ...]
    labels: tuple[int, ...]
    won: int

    def after(self, start: int) -> "Trace":
        """The same trace, read only from position `start` on."""
        first = sum(end < start for end in self.ends)
        return replace(
            self, ends=self.ends[first:], depth=self.depth[first:], labels=self.labels[first:]
        )


def trace_of(
    puzzle: Puzzle, prompt: Sequence[int], made: Sequence[int], tokenizer: PreTrainedTokenizerFast
) -> Trace:
    """Label a sampled completion `made` (ids, EOS included if it came)."""
    pieces = tokenizer.convert_ids_to_tokens(list(made))
    lines, starts, ends = [], [0], []
    for at, piece in enumerate(pieces):
        if piece.endswith("\u010a") or at == len(pieces) - 1:
            lines.append(
                str(tokenizer.decode(list(made[starts[-1] : at + 1]), skip_special_tokens=True))
            )
            ends.append(at)
            starts.append(at + 1)
    won = int(made[-1] == EOS_ID and grade(puzzle, "".join(lines)))
    first, *labels = judge(puzzle, lines)
    labels[-1] = won
    reads = [(len(prompt) - 1, 0, first)]
    for place, choice in enumerate(judge_choices(puzzle, lines)):
        start, end = starts[place], ends[place]
        if choice is not None and _EQUALS in pieces[start : end + 1]:
            reads.append((len(prompt) + pieces.index(_EQUALS, start), -2 - place, choice))
        depth = -1 if end == len(made) - 1 else place + 1
        reads.append((len(prompt) + end, depth, labels[place]))
    places, depths, judged = zip(*reads, strict=True)
    return Trace(puzzle, (*prompt, *made), places, depths, judged, won)


def trace_of_sample(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> Trace:
    """The trace of a generated sample (whose last line is its answer)."""
    prompt = tokenizer(sample.puzzle.prompt)["input_ids"]
    made = [*tokenizer("".join(sample.lines))["input_ids"], EOS_ID]
    return trace_of(sample.puzzle, prompt, made, tokenizer)


def early_lies(count: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Trace]:
    """`count` trajectories with an early lie, and half as many right ones; mostly about 24."""
    rng = random.Random(seed + 4)
    corpora = [Corpus(seed + 5, Mixture(wide=0.2), part) for part in _TRAINING]
    lies = [rng.choice(corpora).early_lie() for _ in range(count)]
    right = [rng.choice(corpora).solution() for _ in range(count // 2)]
    return [trace_of_sample(sample, tokenizer) for sample in (*lies, *right)]


def late_lies(count: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Trace]:
    """About all targets: `count` late lies, and for three of them an early one, a dead end and
    two right trajectories."""
    rng, mixture = random.Random(seed + 6), Mixture(three_numbers=0.05, target_24=0.2, wide=0.2)
    corpora = [Corpus(seed + 7, mixture, part) for part in _TRAINING]
    samples = [rng.choice(corpora).late_lie() for _ in range(count)]
    for _ in range(count // 3):
        corpus = rng.choice(corpora)
        samples += [corpus.early_lie(), corpus.dead_end(), corpus.solution(), corpus.solution()]
    return [trace_of_sample(sample, tokenizer) for sample in samples]


def drawn_lies(count: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Trace]:
    """About all targets: `count` lies that the target is drawn to, half as many dead ends (the
    truth in the same places), and a quarter as many right trajectories."""
    rng, mixture = random.Random(seed + 8), Mixture(three_numbers=0.05, target_24=0.2, wide=0.2)
    corpora = [Corpus(seed + 9, mixture, part) for part in _TRAINING]
    samples = [rng.choice(corpora).drawn_lie() for _ in range(count)]
    samples += [rng.choice(corpora).dead_end() for _ in range(count // 2)]
    samples += [rng.choice(corpora).solution() for _ in range(count // 4)]
    return [trace_of_sample(sample, tokenizer) for sample in samples]


def chance_ends(count: int, seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Trace]:
    """`count` trajectories that end in their target by chance, half of them by a false result."""
    rng, mixture = random.Random(seed + 10), Mixture(three_numbers=0.03, wide=0.2)
    corpora = [Corpus(seed + 11, mixture, part) for part in _TRAINING]
    samples = [rng.choice(corpora).chance_end(lie=at % 2 == 1) for at in range(count)]
    return [trace_of_sample(sample, tokenizer) for sample in samples]


def sample_traces(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    seed: int,
    temperature: float,
) -> list[Trace]:
    """One completion of each puzzle (repeat a puzzle for more), labelled."""
    prompts = tokenizer([puzzle.prompt for puzzle in puzzles])["input_ids"]
    generator = torch.Generator().manual_seed(seed)
    made = sample(model, prompts, generator, temperature)
    rows = zip(puzzles, prompts, made, strict=True)
    return [trace_of(puzzle, prompt, ids, tokenizer) for puzzle, prompt, ids in rows]


@dataclass(frozen=True)
class Reads:
    """The read positions of many traces, flattened; `trace` says which trace each belongs to."""

    hidden: Tensor  # [M, H] float32, after the trunk's final norm
    labels: Tensor  # [M] float32, exact judgement
    won: Tensor  # [M] float32, the trace's grade
    depth: Tensor  # [M] int64
    trace: Tensor  # [M] int64

    @classmethod
    def joined(cls, parts: Sequence["Reads"]) -> "Reads":
        """All of several; their traces keep their own numbers."""
        names = [item.name for item in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def only(self, kept: Tensor) -> "Reads":
        """Where `kept` [M] is true."""
        return Reads(**{item.name: getattr(self, item.name)[kept] for item in fields(self)})


def padded(traces: Sequence[Trace], rows: int) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Traces in batches of like length: ids [rows, length], flat read positions [m] and the
    indices of the traces."""
    order = sorted(range(len(traces)), key=lambda index: len(traces[index].ids))
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        length = max(len(traces[index].ids) for index in chosen)
        ids = torch.full((len(chosen), length), PAD_ID)
        at: list[int] = []
        for row, index in enumerate(chosen):
            ids[row, : len(traces[index].ids)] = torch.tensor(traces[index].ids)
            at += [row * length + end for end in traces[index].ends]
        yield ids, torch.tensor(at), chosen


@torch.inference_mode()
def read(trunk: LlamaModel, traces: Sequence[Trace], rows: int = 128) -> Reads:
    """Run `trunk` over the traces and gather what critics read."""
    hidden, order = [], []
    for ids, at, chosen in padded(traces, rows):
        states = trunk(input_ids=ids, use_cache=False).last_hidden_state
        hidden.append(states.flatten(0, 1)[at].float())
        order += chosen
    picked = [traces[index] for index in order]
    return Reads(
        hidden=torch.cat(hidden).clone(),
        labels=torch.tensor([float(x) for trace in picked for x in trace.labels]),
        won=torch.tensor([float(trace.won) for trace in picked for _ in trace.ends]),
        depth=torch.tensor([x for trace in picked for x in trace.depth]),
        trace=torch.tensor([i for i, t in zip(order, picked, strict=True) for _ in t.ends]),
    )

"""Measurements: solve rates of the models, accuracy and calibration of the critics."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from critics.head import Head
from demo.puzzle import Puzzle, grade
from demo.sampler import sample
from demo.tokenizer import EOS_ID
from demo.traces import sample_traces


@dataclass(frozen=True)
class Accuracy:
    """How well scores in 0..1 tell ones from zeros: AUC overall and after the first step,
    expected calibration error (15 equal bins), Brier score, number of positions."""

    auc: float
    auc_first_step: float
    ece: float
    ece_first_step: float
    brier: float
    count: int

    def as_dict(self) -> dict[str, float]:
        """Rounded figures."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve, ties counted half; nan where a class is missing."""
    positive, negative = int(labels.sum()), int((1 - labels).sum())
    if not positive or not negative:
        return float("nan")
    _, inverse, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2
    total = float(ranks[inverse][labels > 0.5].sum())
    return (total - positive * (positive + 1) / 2) / (positive * negative)


def calibration_error(scores: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins."""
    place = (scores * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins).index_add_(0, place, scores - labels)
    return float(gap.abs().sum() / len(scores))


def accuracy(scores: Tensor, labels: Tensor, depth: Tensor) -> Accuracy:
    """All figures at once; scores, labels, depth [M]."""
    first = depth == 1
    return Accuracy(
        auc(scores, labels),
        auc(scores[first], labels[first]),
        calibration_error(scores, labels),
        calibration_error(scores[first], labels[first]),
        float(((scores - labels) ** 2).mean()),
        len(scores),
    )


def scores_of(head: Head, hidden: Tensor) -> Tensor:
    """What `head` says of hidden states [M, H]: [M], in 0..1."""
    with torch.inference_mode():
        scores: Tensor = head(hidden)
    return scores


def outcome_figures(scores: Tensor, won: Tensor) -> dict[str, float]:
    """Shares at threshold 0.5, and the AUC, of finished trajectories."""
    figures_ = accuracy(scores, won, torch.zeros_like(won))
    right, wrong = won > 0.5, won <= 0.5
    return {
        "auc": round(figures_.auc, 5),
        "brier": round(figures_.brier, 5),
        "false_positive_rate": round(float((scores[wrong] > 0.5).float().mean()), 5),
        "false_negative_rate": round(float((scores[right] <= 0.5).float().mean()), 5),
        "wrong": int(wrong.sum()),
        "right": int(right.sum()),
    }


@dataclass(frozen=True)
class SolveRates:
    """Shares (0..1) of puzzles solved."""

    greedy: float
    sample: float
    pass_20: float


def solve_rates(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    seed: int,
    samples: int = 20,
) -> SolveRates:
    """Greedy, the mean of single samples at temperature 1, and at least one of `samples`."""
    greedy = [t.won for t in sample_traces(model, tokenizer, puzzles, seed, 0.0)]
    repeated = [puzzle for puzzle in puzzles for _ in range(samples)]
    drawn = [t.won for t in sample_traces(model, tokenizer, repeated, seed, 1.0)]
    groups = [drawn[at : at + samples] for at in range(0, len(drawn), samples)]
    return SolveRates(
        sum(greedy) / len(greedy),
        sum(drawn) / len(drawn),
        sum(any(group) for group in groups) / len(groups),
    )


@dataclass(frozen=True)
class Guided:
    """A small beam guided by a process-reward head: share solved, policy tokens a puzzle."""

    solved: float
    tokens: float


@torch.inference_mode()
def score_ends(trunk: LlamaModel, head: Head, rows: Sequence[Sequence[int]]) -> list[float]:
    """The head's score at the last token of each row of ids."""
    scores: list[float] = []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        length = max(map(len, part))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in part])
        hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state
        ends = torch.tensor([len(row) - 1 for row in part])
        last = hidden[torch.arange(len(part)), ends].float()
        scores += head(last).tolist()
    return scores


@torch.inference_mode()
def guided_search(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    trunk: LlamaModel,
    head: Head,
    puzzles: Sequence[Puzzle],
    seed: int,
    widths: Sequence[int] = (12, 6, 4, 2),
    keep: int = 3,
) -> Guided:
    """At each depth sample `widths[depth]` steps (temperature 1) from each kept prefix, keep the
    `keep` best distinct ones by `head`; the best finished one is the answer."""
    stops = frozenset({EOS_ID, tokenizer.get_vocab()[")\u010a"]})
    generator = torch.Generator().manual_seed(seed)
    prompts = [tuple(ids) for ids in tokenizer([p.prompt for p in puzzles])["input_ids"]]
    beams: list[list[tuple[int, ...]]] = [[prompt] for prompt in prompts]
    done: list[list[tuple[int, ...]]] = [[] for _ in puzzles]
    spent = 0
    for width in widths:
        jobs = [(i, row) for i, beam in enumerate(beams) for row in beam for _ in range(width)]
        made = sample(model, [row for _, row in jobs], generator, 1.0, stops, 40)
        spent += sum(map(len, made))
        grown: list[dict[tuple[int, ...], None]] = [{} for _ in puzzles]
        for (index, row), step in zip(jobs, made, strict=True):
            grown[index][(*row, *step)] = None
        flat = [row for rows in grown for row in rows]
        scored = dict(zip(flat, score_ends(trunk, head, flat), strict=True))
        for index, rows in enumerate(grown):
            best = sorted(rows, key=lambda row: -scored[row])[:keep]
            done[index] += [row for row in best if row[-1] == EOS_ID]
            beams[index] = [row for row in best if row[-1] != EOS_ID]
    solved = 0
    for puzzle, prompt, finished in zip(puzzles, prompts, done, strict=True):
        if finished:
            scores = score_ends(trunk, head, finished)
            answer = finished[max(range(len(finished)), key=scores.__getitem__)]
            text = tokenizer.decode(list(answer[len(prompt) :]), skip_special_tokens=True)
            solved += grade(puzzle, str(text))
    return Guided(solved / len(puzzles), spent / len(puzzles))

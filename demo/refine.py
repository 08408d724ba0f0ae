"""The last stretch of the policy's training: its own steps, exactly labelled, join the walks."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critics.head import card_of, load_head, save_head
from demo.corpus import Corpus, Sample
from demo.judge import judge
from demo.load import load_model, load_tokenizer
from demo.plan import Plan
from demo.pool import Mixture
from demo.puzzle import Puzzle
from demo.sampler import sample
from demo.tokenizer import EOS_ID
from demo.train_policy import save_policy, train

_MIXTURE = Mixture(three_numbers=0.05, target_24=0.6)


class OnPolicy:
    """A `Source` whose labelled trajectories are what the policy wrote, near misses, and walks."""

    def __init__(self, corpus: Corpus, own: Sequence[Sample], seed: int) -> None:
        self._corpus, self._random = corpus, random.Random(seed)
        self._walks = [sample for sample in own if sample.lines[-1].startswith("Answer:")]
        self._first_steps = [sample.first(1) for sample in own]

    def solution(self) -> Sample:
        """A random solution."""
        return self._corpus.solution()

    def walk(self) -> Sample:
        """A whole trajectory."""
        chance = self._random.random()
        if chance < 0.5:
            return self._corpus.near_miss()
        if not self._walks or chance < 0.65:
            return self._corpus.walk()
        return self._random.choice(self._walks)

    def dead_end(self) -> Sample:
        """True steps that need not win."""
        return self._corpus.dead_end()

    def drill(self) -> Sample:
        """True steps from any numbers."""
        return self._corpus.drill()

    def first_step(self) -> Sample:
        """A first step."""
        chance = self._random.random()
        if chance < 0.15:
            return self._corpus.near_miss().first(1)
        if not self._first_steps or chance < 0.35:
            return self._corpus.first_step()
        return self._random.choice(self._first_steps)


def own_samples(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    puzzles: Sequence[Puzzle],
    stop: int,
    seed: int,
) -> list[Sample]:
    """What the policy writes for each puzzle up to the token `stop` or EOS (temperature 1.1),
    labelled by the solver."""
    prompts = tokenizer([puzzle.prompt for puzzle in puzzles])["input_ids"]
    generator = torch.Generator().manual_seed(seed)
    made = sample(model, prompts, generator, 1.1, frozenset({stop, EOS_ID}), 56)
    found: list[Sample] = []
    for puzzle, ids in zip(puzzles, made, strict=True):
        lines = str(tokenizer.decode(ids, skip_special_tokens=True)).splitlines(keepends=True)
        if ids[-1] in (stop, EOS_ID) and lines:
            found.append(Sample(puzzle, tuple(lines), judge(puzzle, lines)))
    return found


def refine_policy(
    out: Path, work: Path, seed: int, plan: Plan, first_steps: int, mixture: Mixture
) -> int:
    """Go on training the policy in `out` and its process-reward head in `work`, in place;
    `first_steps` of its own steps and a third as many whole trajectories are sampled before;
    `mixture` says which puzzles it learns to solve. Returns the steps taken."""
    model, tokenizer = load_model(out), load_tokenizer(out)
    head, _ = load_head(work / "prm")
    corpus = Corpus(seed + 5, _MIXTURE)
    step_end = tokenizer.get_vocab()[")\u010a"]
    own: list[Sample] = []
    for count, stop in ((first_steps, step_end), (first_steps // 3, EOS_ID)):
        puzzles = [corpus.puzzle() for _ in range(count)]
        own += own_samples(model, tokenizer, puzzles, stop, seed)
    model.set_attn_implementation("eager")  # on a CPU, faster backward than the fused kernel
    head.train()
    source = OnPolicy(Corpus(seed + 6, mixture), own, seed)
    taken = train(model, head, source, plan, lambda name: save_policy(model, work / name))
    save_policy(model, out)
    save_head(head, card_of(head, "prm", "policy"), work / "prm")
    return taken

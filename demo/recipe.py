"""Makes every checkpoint of the embedded model from one seed.

`python -m demo.recipe --out demo/checkpoints --seed 0` runs all stages, about 10 hours on two
cores; `--stage NAME ...` runs some, reading what the stages before it left in `--out` and `--work`.
"""

import argparse
import dataclasses
import json
import logging
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from critics.head import Head, card_of, load_head, save_head
from demo.average import average
from demo.card import figures, write_card
from demo.corpus import Corpus
from demo.deepen import deepen
from demo.hard import candidates, hardest
from demo.join import Kind, train_jointly
from demo.load import load_model, load_tokenizer
from demo.measure import accuracy, outcome_figures, scores_of
from demo.plan import Plan
from demo.pool import Mixture, Part, multisets
from demo.puzzle import Puzzle, reachable, test_puzzles
from demo.refine import refine_policy
from demo.searched import searched_traces
from demo.settings import Settings
from demo.traces import (
    Reads,
    Trace,
    chance_ends,
    drawn_lies,
    early_lies,
    late_lies,
    read,
    sample_traces,
    trace_of_sample,
)
from demo.train_critics import fit_head
from demo.train_policy import Size, save_policy, train_policy

_log = logging.getLogger(__name__)
_KINDS: tuple[Kind, ...] = ("value", "prm", "orm")
_SCOUTED: dict[Kind, tuple[str, ...]] = {
    "value": ("policy",),
    "prm": ("policy", "walks", "near"),
    "orm": ("policy", "rollout", "walks", "near"),
}
"""What the critics of the first searches learn from."""
_WEIGHTS = ("policy/model.safetensors", *(f"{kind}/head.safetensors" for kind in _KINDS))


def stages(settings: Settings) -> tuple[str, ...]:
    """The names of all stages, in order."""
    joint: list[str] = []
    for number, plan in enumerate(settings.rounds, 1):
        joint += [f"search_{number}"] * (plan.searches is not None)
        joint += [f"sample_{number}"] * (plan.samples is not None)
        joint += [f"hard_{number}"] * (plan.mined is not None)
        joint.append(f"join_{number}")
    first = ("policy", "refine", "widen", "rollout", "traces", "scouts")
    return (*first, *joint, "card")


class Recipe:
    """The stages over one pair of folders: `out` ships, `work` holds what only stages share."""

    def __init__(self, out: Path, work: Path, seed: int, settings: Settings) -> None:
        self._out, self._work, self._seed, self._settings = out, work, seed, settings
        self._reads: dict[str, Reads] = {}
        """What the policy's trunk says of stored traces, by their name."""
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)

    def run(self, stage: str) -> None:
        """Run one of `stages`; raises FileNotFoundError if an earlier one is missing."""
        if stage not in stages(self._settings):
            raise ValueError(f"no stage {stage!r}: {', '.join(stages(self._settings))}")
        _log.info("stage %s", stage)
        what, _, number = stage.partition("_")
        match what:
            case "policy":
                self._train(self._settings.policy_size, self._settings.policy, "policy")
            case "refine":
                self._refine(stage, self._settings.refine, Mixture(), self._seed)
            case "widen":
                self._refine(stage, self._settings.widen, Mixture(wide=0.6), self._seed + 50)
            case "rollout":
                self._train(self._settings.rollout_size, self._settings.rollout, "rollout")
            case "traces":
                self._sample()
            case "scouts":
                self._scouts()
            case "search":
                self._search(int(number))
            case "sample":
                self._sample_round(int(number))
            case "hard":
                self._mine(int(number))
            case "join":
                self._join(int(number))
            case "card":
                tests = test_puzzles()[: self._settings.measured_puzzles]
                held_out = self._held_out_puzzles()
                self._measure_critics()
                measured = figures(self._out, tests, held_out, self._seed, self._notes())
                write_card(self._out, measured)

    def _train(self, size: Size, plan: Plan, name: str) -> None:
        taken = train_policy(size, self._out / name, self._work / name, self._seed, plan)
        self._note(name, {"steps": taken})

    def _refine(self, stage: str, plan: Plan, mixture: Mixture, seed: int) -> None:
        paths = (self._out / "policy", self._work / "policy")
        taken = refine_policy(*paths, seed, plan, self._settings.own_first_steps, mixture)
        self._note(stage, {"steps": taken})

    def _sample(self) -> None:
        """Completions of the policy and the rollout model, and walks, all of training puzzles.

        Half are of the multisets that the policy never saw."""
        s, rng = self._settings, random.Random(self._seed)
        tokenizer = self._tokenizer()
        policy, rollout = self._model("policy"), self._model("rollout")
        found: dict[str, list[Trace]] = {}
        for name, model, count in (
            ("policy", policy, s.policy_traces),
            ("rollout", rollout, s.rollout_traces),
        ):
            puzzles = training_puzzles(count, self._seed, rng)
            found[name] = sample_traces(model, tokenizer, puzzles, self._seed, s.temperature)
            rate = sum(trace.won for trace in found[name]) / max(1, len(puzzles))
            _log.info("%s: %d traces, %.3f right", name, len(puzzles), rate)
        corpora = [Corpus(self._seed + 1, part=part) for part in ("policy", "critics")]
        walks = [rng.choice(corpora).walk() for _ in range(s.walks)]
        walks += [rng.choice(corpora).solution() for _ in range(s.walks // 4)]
        found["walks"] = [trace_of_sample(walk, tokenizer) for walk in walks]
        near = [rng.choice(corpora).near_miss() for _ in range(s.near_misses)]
        found["near"] = [trace_of_sample(miss, tokenizer) for miss in near]
        found["lies"] = early_lies(s.early_lies, self._seed, tokenizer)
        found["late"] = late_lies(s.late_lies, self._seed, tokenizer)
        found["drawn"] = drawn_lies(s.drawn_lies, self._seed, tokenizer)
        found["chance"] = chance_ends(s.chance_ends, self._seed, tokenizer)
        for name, traces in found.items():
            self._keep(name, traces)

    def _scouts(self) -> None:
        """Critics of the first searches: heads on the policy's hidden states, fitted on samples."""
        policy = self._model("policy")
        heads = {kind: self._head(policy, kind, _SCOUTED[kind]) for kind in _KINDS}
        _save_joined(policy, heads, self._work / "scouts")

    def _joined(self, number: int) -> Path:
        """The policy and the critics of round `number`; those of no round are the scouts."""
        return self._work / (f"join_{number}" if number else "scouts")

    def _start(self, number: int) -> Path:
        """The policy and the critics that round `number` starts from."""
        shares = self._settings.rounds[number - 1].start
        if not shares:
            return self._joined(number - 1)
        folder = self._work / f"start_{number}"
        self._average(shares, folder)
        return folder

    def _average(self, shares: Mapping[int, float], folder: Path) -> None:
        """The mean of these rounds' policies and critics, into `folder`."""
        shutil.copytree(self._joined(max(shares)), folder, dirs_exist_ok=True)
        average({self._joined(n): share for n, share in shares.items()}, _WEIGHTS, folder)

    def _search(self, number: int) -> None:
        """Trees over training puzzles, by the policy and the critics that the round starts from."""
        plan, folder = self._settings.rounds[number - 1].searches, self._start(number)
        assert plan is not None
        manifest = {
            "policy": "policy",
            "critics": {kind: kind for kind in _KINDS},
            "search": plan.parameters.model_dump(mode="json", exclude_unset=True),
        }
        (folder / "served.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
        seed = self._seed + plan.seed
        puzzles = distinct_puzzles(plan.count, seed, plan.puzzles)
        place = (folder, load_model(folder / "policy"), self._tokenizer())
        traces = searched_traces(*place, puzzles, seed, self._settings.temperature)
        self._note(f"search_{number}", {"searches": len(puzzles), "leaves": len(traces)})
        self._keep(f"search_{number}", traces)

    def _sample_round(self, number: int) -> None:
        """Completions of training puzzles by the policy that the round starts from."""
        plan = self._settings.rounds[number - 1].samples
        assert plan is not None
        seed = self._seed + plan.seed
        puzzles = distinct_puzzles(plan.count, seed, plan.puzzles)
        policy = load_model(self._start(number) / "policy")
        traces = sample_traces(policy, self._tokenizer(), puzzles, seed, plan.temperature)
        self._keep(f"sample_{number}", traces)

    def _mine(self, number: int) -> None:
        """What the outcome critic that the round starts from misjudges most: of lies, of right
        trajectories, and of the round's samples."""
        plan, folder = self._settings.rounds[number - 1], self._start(number)
        mined = plan.mined
        assert mined is not None
        traces = candidates(mined.count, self._seed + mined.seed, mined.puzzles, self._tokenizer())
        if plan.samples is not None:
            traces += self._traces(f"sample_{number}")
        policy, head = load_model(folder / "policy"), load_head(folder / "orm")[0]
        self._keep(f"hard_{number}", hardest(policy.model, head, traces, mined.keep))

    def _join(self, number: int) -> None:
        """The policy and its critics, trained together; after the last round, the mean that
        ships."""
        plan, folder = self._settings.rounds[number - 1], self._start(number)
        model = deepen(load_model(folder / "policy"), plan.deepen)
        heads = {kind: load_head(folder / kind)[0] for kind in _KINDS}
        begun = self._work / f"begun_{number}"
        _save_joined(model, heads, begun)
        sources = [(share, self._traces(name)) for name, share in plan.shares.items()]
        seed = self._seed + 200 + number
        taken = train_jointly(model, heads, sources, plan.solved, seed, plan.plan)
        _save_joined(model, heads, self._joined(number))
        if plan.keep:
            shares = {begun: plan.keep, self._joined(number): 1.0 - plan.keep}
            average(shares, _WEIGHTS, self._joined(number))
        if number == len(self._settings.rounds):
            self._average(self._settings.ships, self._out)
        self._note(f"join_{number}", {"steps": taken})

    def _keep(self, name: str, traces: Sequence[Trace]) -> None:
        self._reads.pop(name, None)
        rows = [dataclasses.astuple(trace) for trace in traces]
        torch.save(rows, self._work / f"{name}.traces.pt")

    def _measure_critics(self) -> None:
        """Of value and PRM on the policy's samples, of the ORM on both models' samples, of PRM
        and ORM on lies; all about held-out puzzles."""
        s, tests, tokenizer = self._settings, self._held_out_puzzles(), self._tokenizer()
        policy = self._model("policy")
        heads = {kind: load_head(self._out / kind)[0] for kind in _KINDS}
        repeated = [puzzle for puzzle in tests for _ in range(s.held_out_samples)]
        traces = sample_traces(policy, tokenizer, repeated, self._seed + 2, s.temperature)
        held = read(policy.model, traces)
        truths: dict[Kind, Tensor] = {"value": held.won, "prm": held.labels}
        for kind, truth in truths.items():
            found = accuracy(scores_of(heads[kind], held.hidden), truth, held.depth)
            self._note(kind, found.as_dict())
        repeated = [puzzle for puzzle in tests for _ in range(s.orm_samples)]
        notes: dict[str, object] = {}
        for name, model in (("policy", policy), ("rollout", self._model("rollout"))):
            traces = sample_traces(model, tokenizer, repeated, self._seed + 3, 1.0)
            reads = read(policy.model, traces)
            reads = reads.only(reads.depth == -1)
            notes[name] = outcome_figures(scores_of(heads["orm"], reads.hidden), reads.won)
        early = Corpus(self._seed + 30, Mixture(target_24=1.0), "held_out").early_lie
        late = Corpus(self._seed + 31, Mixture(0.0, 0.0), "held_out").late_lie
        drawn = Corpus(self._seed + 32, Mixture(0.0, 0.0), "held_out").drawn_lie
        for name, lie, step in (("early", early, 1), ("late", late, 3), ("drawn", drawn, None)):
            lies = [lie() for _ in range(s.measured_puzzles)]
            reads = read(policy.model, [trace_of_sample(sample, tokenizer) for sample in lies])
            places: dict[Kind, int] = {"orm": -1} if step is None else {"prm": step, "orm": -1}
            for kind, depth in places.items():
                wrong = reads.only((reads.depth == depth) & (reads.labels < 0.5))
                share = (scores_of(heads[kind], wrong.hidden) > 0.5).float().mean()
                notes[f"{name} lies accepted by {kind}"] = round(float(share), 4)
        self._note("outcomes", notes)

    def _head(self, policy: LlamaForCausalLM, kind: Kind, names: Sequence[str]) -> Head:
        """A head on the policy's hidden states, fitted on the traces `names`."""
        for name in names:
            if name not in self._reads:
                self._reads[name] = read(policy.model, self._traces(name))
        reads = Reads.joined([self._reads[name] for name in names])
        if kind == "orm":
            reads = reads.only(reads.depth == -1)
        labels = reads.labels if kind == "prm" else reads.won
        return fit_head(reads, labels, self._seed, self._settings.head)

    def _held_out_puzzles(self) -> list[Puzzle]:
        fours = [Puzzle(numbers, 24) for numbers in multisets(4, "held_out")]
        found = [puzzle for puzzle in fours if puzzle.solvable]
        return found[: self._settings.measured_puzzles]

    def _model(self, name: str) -> LlamaForCausalLM:
        return load_model(self._out / name)

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return load_tokenizer(self._out / "policy")

    def _traces(self, name: str) -> list[Trace]:
        rows = torch.load(self._work / f"{name}.traces.pt", weights_only=True)
        return [Trace(Puzzle(*puzzle), *rest) for puzzle, *rest in rows]

    def _note(self, name: str, note: Mapping[str, object]) -> None:
        _log.info("%s: %s", name, note)
        text = json.dumps(note, indent=2)
        (self._work / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    def _notes(self) -> dict[str, object]:
        paths = sorted(self._work.glob("*.json"))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _save_joined(model: LlamaForCausalLM, heads: Mapping[Kind, Head], folder: Path) -> None:
    save_policy(model, folder / "policy")
    for kind, head in heads.items():
        save_head(head, card_of(head, kind, "policy"), folder / kind)


def training_puzzles(count: int, seed: int, rng: random.Random) -> list[Puzzle]:
    """Puzzles to sample from: mostly 4 numbers and target 24, half of them of the multisets that
    only critics train on."""
    mixture = Mixture(three_numbers=0.05, target_24=0.6)
    parts: Sequence[Part] = ("critics", "policy")
    corpora = {part: Corpus(seed + 10, mixture, part) for part in ("policy", "critics")}
    found: list[Puzzle] = []
    while len(found) < count:
        puzzle = corpora[rng.choice(parts)].puzzle()
        if rng.random() < 0.05:
            goal = rng.randint(1, mixture.largest_target)
            if not reachable(puzzle.state, goal):
                puzzle = Puzzle(puzzle.numbers, goal)
        found += [puzzle] * min(4, count - len(found))
    return found


def distinct_puzzles(count: int, seed: int, mixture: Mixture) -> list[Puzzle]:
    """Distinct draws: half of them of the multisets that only critics train on."""
    parts: Sequence[Part] = ("critics", "policy")
    corpora = [Corpus(seed + 20, mixture, part) for part in parts]
    return [corpora[at % len(corpora)].puzzle() for at in range(count)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.recipe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoints"))
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--seed", type=int, default=0)
    every = stages(Settings())
    parser.add_argument("--stage", choices=every, nargs="+", default=every)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe(options.out, options.work, options.seed, Settings())
    for stage in options.stage:
        recipe.run(stage)


if __name__ == "__main__":
    main()

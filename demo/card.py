"""The model card: measures what ships and writes `figures.json` and `README.md` beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from critics.head import load_head
from demo.load import load_model, load_tokenizer
from demo.measure import guided_search, score_ends, solve_rates
from demo.puzzle import Puzzle
from demo.traces import sample_traces


def figures(
    out: Path,
    tests: Sequence[Puzzle],
    held_out: Sequence[Puzzle],
    seed: int,
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything the card states; `notes` are the figures that the training stages left."""
    tokenizer = load_tokenizer(out / "policy")
    measured: dict[str, Any] = {"training": dict(notes), "models": {}}
    policy = load_model(out / "policy")
    rollout = load_model(out / "rollout")
    for name, model in (("policy", policy), ("rollout", rollout)):
        greedy = [trace.won for trace in sample_traces(model, tokenizer, held_out, seed, 0.0)]
        measured["models"][name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "test": _rounded(asdict(solve_rates(model, tokenizer, tests, seed))),
            "held_out_greedy": round(sum(greedy) / len(greedy), 4),
        }
    for kind, seeds in (("prm", 1), ("value", 1)):
        head, _ = load_head(out / kind)
        runs = [
            guided_search(policy, tokenizer, policy.model, head, tests, seed + i)
            for i in range(seeds)
        ]
        measured[f"guided_by_{kind}"] = _rounded(
            {
                "solved": sum(run.solved for run in runs) / len(runs),
                "tokens": sum(run.tokens for run in runs) / len(runs),
            }
        )
    head, _ = load_head(out / "orm")
    repeated = [puzzle for puzzle in tests for _ in range(20)]
    traces = sample_traces(policy, tokenizer, repeated, seed + 9, 1.0)
    scores = score_ends(policy.model, head, [trace.ids for trace in traces])
    best = [max(range(at, at + 20), key=scores.__getitem__) for at in range(0, len(scores), 20)]
    measured["best_of_20_by_orm"] = sum(traces[at].won for at in best) / len(best)
    measured["bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return measured


def write_card(out: Path, measured: Mapping[str, Any]) -> None:
    """Write `figures.json` and the model card."""
    text = json.dumps(measured, indent=2)
    (out / "figures.json").write_text(text + "\n", encoding="utf-8")
    (out / "README.md").write_text(_card(measured), encoding="utf-8")


def _card(measured: Mapping[str, Any]) -> str:
    models, notes = measured["models"], measured["training"]
    rows = []
    for name in ("policy", "rollout"):
        test, held = models[name]["test"], models[name]["held_out_greedy"]
        rates = [test["greedy"], test["sample"], test["pass_20"], held]
        cells = " | ".join(f"{100 * rate:.1f}" for rate in rates)
        rows.append(f"| {name} | {models[name]['parameters']:,} | {cells} |")
    critics = []
    for kind in ("value", "prm"):
        columns = ("auc", "auc_first_step", "ece", "ece_first_step", "brier")
        cells = " | ".join(f"{notes[kind][column]:.4f}" for column in columns)
        critics.append(f"| {kind} | {cells} |")
    outcomes = []
    for name in ("policy", "rollout"):
        note = notes["outcomes"][name]
        cells = f"{note['auc']:.5f} | {note['false_positive_rate']:.3%}"
        cells += f" | {note['false_negative_rate']:.3%} | {note['wrong']} | {note['right']}"
        outcomes.append(f"| {name} | {cells} |")
    guided = "\n".join(
        f"| {kind} | {100 * measured[f'guided_by_{kind}']['solved']:.1f} "
        f"| {measured[f'guided_by_{kind}']['tokens']:.0f} |"
        for kind in ("prm", "value")
    )
    return _TEMPLATE.format(
        models="\n".join(rows),
        critics="\n".join(critics),
        outcomes="\n".join(outcomes),
        guided=guided,
        best=100 * measured["best_of_20_by_orm"],
        refine_steps=notes["refine"]["steps"],
        widen_steps=notes["widen"]["steps"],
        policy_steps=notes["policy"]["steps"],
        join_steps=sum(note["steps"] for name, note in notes.items() if name.startswith("join_")),
        leaves=sum(note["leaves"] for name, note in notes.items() if name.startswith("search_")),
        lies_prm=notes["outcomes"]["early lies accepted by prm"],
        lies_orm=notes["outcomes"]["early lies accepted by orm"],
        late_prm=notes["outcomes"]["late lies accepted by prm"],
        late_orm=notes["outcomes"]["late lies accepted by orm"],
        drawn_orm=notes["outcomes"]["drawn lies accepted by orm"],
        rollout_steps=notes["rollout"]["steps"],
        megabytes=measured["bytes"] / 1e6,
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


_TEMPLATE = """# The embedded model `demo`

Two small models and three critics for the Game of 24 and Countdown, trained from nothing by
`python -m demo.recipe --out demo/checkpoints --seed 0` on two CPU cores; {megabytes:.1f} MB
together, float32 safetensors. They show what search adds to a small policy; they are of no use
for anything else.

```
prompt      Use 4 9 10 13 to make 24.\\n
completion  13 - 9 = 4 (left: 4 4 10)\\n
            10 - 4 = 6 (left: 4 6)\\n
            4 * 6 = 24 (left: 24)\\n
            Answer: (13 - 9) * (10 - 4) = 24
```

3 or 4 numbers from 1 to 13 (in most of the last training stretch up to 20, so many that they cannot
be memorised), targets 1 to 100 (half of the training puzzles ask for 24, in the end a third),
intermediate integers up to 999 and fractions written `8/3`. In the last ten rounds 6 to 25% of the
puzzles can be solved with fractions alone, in the last two more than a third by one first step
alone: on nearly all others a search succeeds. Differences are larger - smaller.

## Held out

Never trained on, whatever the target: the puzzles of rank 901 to 1000 of `demo/data/game24.csv`
(the test set of Tree of Thoughts, MIT licence beside it; every one can be solved with
non-negative integers alone) and every multiset of numbers whose sorted, comma-joined text has a
CRC-32 divisible by 10. The policy and the rollout model also never saw the multisets whose
CRC-32 is 5 modulo 12: critics learn mostly from those, so that they see the policy on puzzles
that are new to it.

## Models

`policy` and `rollout` are `LlamaForCausalLM`, tied embeddings, one tokenizer (2,304 tokens).
Policy: {policy_steps} steps, then {refine_steps} with its own steps among the walks of the
process-reward loss, then {widen_steps} with larger numbers and with near misses among the walks,
then {join_steps} together with the critics, the last of them mostly about other targets than 24
and with dead ends: from them alone it learns in the end what steps come to (who has only read
solutions writes what leads to the target). In the last seven rounds it also reads drills, in two of
them little else: true steps from any numbers to any others, up to 99 and with fractions, for what
they come to alone. In the seventh round it got three more layers, which at first change nothing
(`demo/deepen.py`). Several rounds start from means of earlier rounds' weights, and what ships is
the mean of the last three.
Rollout: {rollout_steps} steps. Shares of puzzles solved, in percent; a single sample and at least
one of 20 at temperature 1, on the 100 test
puzzles; last column: greedy on all solvable held-out puzzles of target 24.

| model | parameters | greedy | one sample | one of 20 | greedy, all held out |
|---|---|---|---|---|---|
{models}

A small beam (12 first steps, the best 3 kept, then 6, 4 and 2 continuations of each), guided by
one critic alone, on the 100 test puzzles:

| guided by | solved, % | policy tokens a puzzle |
|---|---|---|
{guided}

Best of 20 samples, picked by the ORM: {best:.0f} of 100.

## Critics

`critic.json` says how to read a critic, `head.safetensors` holds `up.weight [M,H]`, `up.bias
[M]`, `down.weight [1,M]`, `down.bias [1]` in float32: score = sigmoid(down(silu(up(h)))), h the
policy's last hidden state after the final norm (`trunk: policy`). They were trained together with
the policy, so that its hidden states hold what they ask for; a score costs no tokens.

- `value`: the chance that the policy's own continuation (temperature 0.9) succeeds; read at the
  prompt's last token, behind the first `=` of each line, at each step's last token, and at EOS.
- `prm`: whether every step so far is right and the target can still be made; behind an `=`, with
  what the step truly comes to. Same places.
- `orm`: whether the finished trajectory is right; read at EOS.

They learn from samples of the policy, from random walks and near misses with exact labels (PRM and
ORM), and from what searches visit: {leaves:,} leaves of trees over training puzzles that earlier
critics guided, every unfinished one completed by a sample of the policy. Without the last
part a search finds the states at which its critics are wrong. The last eight rounds add what their
ORM was most wrong about, of many more lies, right trajectories and samples than could be learned
from (`demo/hard.py`), the last seven trajectories that end in their target because it was made of
what they end in, half of them by a false result.

Value and PRM on the policy's samples (temperature 0.9) of all solvable held-out puzzles of
target 24, all read positions; ECE with 15 bins:

| critic | AUC | AUC, first step | ECE | ECE, first step | Brier |
|---|---|---|---|---|---|
{critics}

ORM on samples at temperature 1 of the same puzzles, threshold 0.5:

| samples of | AUC | false positives | false negatives | wrong | right |
|---|---|---|---|---|---|
{outcomes}

Early lies are right but for a number in one of the first steps that was not left. About held-out
puzzles the PRM accepts {lies_prm:.1%} of those in a first step, and the ORM {lies_orm:.1%} of all
such trajectories. Late lies are true steps and a last one that claims the target, or right steps
and a wrong answer line; about held-out puzzles with any target the PRM accepts {late_prm:.1%} of
the false last steps, and the ORM {late_orm:.1%} of all such trajectories. Drawn lies are one false
result at any step, and true steps on to a target that is drawn to it; the ORM accepts
{drawn_orm:.1%}. Searches find all three kinds; samples seldom show them.

## Known limits

- A search can only follow steps that the policy proposes. Sums of fractions are what it writes
  least surely; one puzzle in forty needs fractions, where targets are drawn from all that can be
  made.
- The critics are learned: some wrong trajectories pass (table above), among them some with a wrong
  answer line after right steps. Where an answer has to be
  right, check it.
- Stages end on time as well as on steps, so another machine makes slightly different weights.

All figures, with the training notes: `figures.json`.
"""

"""What would break: an option that is none of the actions, an action that is never offered or
offered twice, or one whose probability is not the policy's."""

from __future__ import annotations

import threading
import time
from math import exp
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcts_core import served
from mcts_core.engine.actions import ActionFilter
from mcts_core.engine.sampler import Draw, sample
from mcts_core.engine.session import Session
from mcts_core.models.logits import LogitsRow
from mcts_core.search.work import (
    Account,
    Actions,
    Extend,
    Extended,
    Open,
    Opened,
    Option,
    Outcome,
    RolledOut,
    Rollout,
    Sampling,
    Sibling,
)
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running, Scripted
from tests.mcts_core.engine.plans import PROMPT, facts, tree
from tests.mcts_core.models_zoo import make

DEMO = Path(__file__).parents[3] / "demo" / "checkpoints"
MOVES = ((5, 6), (5, 7, 8), (9,), (10, 11, 12))


def siblings(*taken: tuple[int, ...]) -> tuple[Sibling, ...]:
    return tuple(Sibling(tokens, (-1.0,) * len(tokens)) for tokens in taken)


def test_tokens_of_the_trie_are_allowed_and_those_to_what_is_taken_are_not_left() -> None:
    option = ActionFilter(Actions(MOVES), siblings((9,), (5, 6)), (0,))
    assert option.allowed() == (5, 9, 10)
    assert option.left(0) == (5, 10)
    other = option.copy()
    assert not option.follow(5)
    assert (option.allowed(), option.left(0)) == ((6, 7), (7,))
    assert not option.follow(7)
    assert option.follow(8)
    assert other.allowed() == (5, 9, 10), "a copy goes its own way"


def test_a_run_of_actions_begins_anew_after_each() -> None:
    option = ActionFilter(Actions(MOVES, count=2), (), (0,))
    assert [option.follow(token) for token in (5, 6)] == [False, False]
    assert option.allowed() == (5, 9, 10)
    assert option.follow(9)


def test_each_draw_takes_an_action_of_its_own() -> None:
    option = ActionFilter(Actions(MOVES, each=True), siblings((9,)), (4, 5, 6))
    assert [option.left(draw) for draw in (4, 5, 6)] == [(5,), (5,), (10,)]


@given(st.permutations(range(8)), st.floats(1e-9, 0.999), st.sets(st.integers(0, 7), max_size=7))
def test_only_what_is_left_is_drawn_however_unlikely(
    order: list[int], noise: float, taken: set[int]
) -> None:
    logits = torch.tensor([60.0 * place for place in order] + [900.0])
    left = [token for token in range(8) if token not in taken]
    factors = dict.fromkeys(taken, 0.0)
    for greedy in (True, False):
        draw = Draw(Sampling(), greedy, noise, factors, [], 0, list(range(8)), left)
        (drawn,) = sample([LogitsRow.alone(logits)], [draw])
        assert drawn is not None
        assert drawn.logprob.token in left
        best = max(left, key=lambda token: order[token])
        assert drawn.logprob.token == best, "nothing else comes near it"
        among = 60.0 * (order[best] - 7)
        assert drawn.draw_logprob == pytest.approx(among, abs=1e-3), "among all that are allowed"
        assert drawn.logprob.logprob == pytest.approx(60.0 * order[best] - 900.0, abs=1e-3)


def draws(into: list[Extended], actions: Actions, count: int, *taken: tuple[int, ...]) -> Plan:
    (root,) = yield [Open(PROMPT)]
    assert isinstance(root, Opened)
    sampling = Sampling(seed=2, top_k=1)
    known = siblings(*taken)
    (outcome,) = yield [
        Extend(root.state, sampling, (0, 0), siblings=known, actions=actions, draws=count)
    ]
    assert isinstance(outcome, Extended)
    into.append(outcome)


def test_all_actions_are_scored_in_one_go_for_the_tokens_of_their_trie(running: Running) -> None:
    found: list[Extended] = []
    running.run(draws(found, Actions(MOVES, each=True), len(MOVES)))
    options = {option.tokens: option for option in found[0].options}
    assert set(options) == set(MOVES)
    prefixes = {action[: n + 1] for action in MOVES for n in range(len(action))}
    assert found[0].spent == len(prefixes)
    model = make("llama")
    for action, option in options.items():
        assert option.finish == "step"
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*PROMPT, *action]]), use_cache=False).logits[0]
        expected = logits.log_softmax(dim=-1)[len(PROMPT) - 1 : -1]
        own = [float(row[token]) for row, token in zip(expected, action, strict=True)]
        assert [each.logprob for each in option.logprobs] == pytest.approx(own, abs=1e-4)
    total = sum(exp(sum(option.draw_logprobs)) for option in options.values())
    assert total == pytest.approx(1.0, abs=1e-5), "of the actions, one is taken"
    running.idle()


def test_actions_are_drawn_until_none_is_left(running: Running) -> None:
    taken: list[tuple[int, ...]] = []
    for _ in MOVES:
        found: list[Extended] = []
        running.run(draws(found, Actions(MOVES), 1, *taken))
        (option,) = found[0].options
        assert option.tokens in MOVES
        assert option.tokens not in taken
        taken.append(option.tokens)
    running.idle()


def test_a_run_ends_with_its_last_action_a_stop_string_or_the_end_token(running: Running) -> None:
    found: list[Option] = []

    def plan(actions: Actions, stop: tuple[str, ...]) -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        work = Extend(root.state, Sampling(seed=1), (0, 0), stop=stop, actions=actions)
        (outcome,) = yield [work]
        assert isinstance(outcome, Extended)
        found.extend(outcome.options)

    one = ((20, 21),)
    running.run(plan(Actions(one, 3), ()))
    running.run(plan(Actions(one, 3), (chr(33 + 21) + chr(33 + 20),)))
    running.run(plan(Actions(((20, END_TOKEN),), 3), ()))
    assert [option.tokens for option in found] == [(20, 21) * 3, (20, 21, 20), (20, END_TOKEN)]
    assert [option.finish for option in found] == ["step", "stop", "eos"]
    running.idle()


def completions(into: list[Outcome], actions: Actions, sampling: Sampling, limit: int) -> Plan:
    """Eight rollouts from the prompt at once."""
    (root,) = yield [Open(PROMPT)]
    assert isinstance(root, Opened)
    into += yield [
        Rollout(root.state, sampling, (0, -1 - n), limit, critics=("orm",), actions=actions)
        for n in range(8)
    ]


def cut_up(tokens: tuple[int, ...], actions: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """The actions that `tokens` are made of; what is left at the end is the last."""
    found: list[tuple[int, ...]] = []
    while tokens:
        length = next((len(each) for each in actions if tokens[: len(each)] == each), len(tokens))
        found.append(tokens[:length])
        tokens = tokens[length:]
    return found


def test_rollouts_are_runs_of_actions_whatever_else_is_in_the_batch(running: Running) -> None:
    sampling = Sampling(temperature=2.0, top_k=1, min_p=0.9, seed=4)  # only the first applies
    alone: list[Outcome] = []
    crowded: list[Outcome] = []
    running.run(completions(alone, Actions(MOVES, 5), sampling, 40))
    running.idle()
    others: list[Outcome] = []
    running.run(
        tree(others, 1), completions(crowded, Actions(MOVES, 5), sampling, 40), tree(others, 2)
    )
    running.idle()
    assert facts(crowded) == facts(alone)
    runs: set[tuple[int, ...]] = set()
    for outcome in alone:
        assert isinstance(outcome, RolledOut)
        made = cut_up(outcome.tokens, MOVES)
        assert set(made) <= set(MOVES)
        assert (len(made), outcome.finish) == (5, "step")
        assert "orm" in outcome.scores
        runs.add(outcome.tokens)
    assert len(runs) > 1


def test_the_rollout_model_chooses_among_the_actions(running: Running) -> None:
    found: list[Outcome] = []
    running.run(completions(found, Actions(MOVES, 2), Sampling(temperature=0.0), 40))
    model = make("qwen2")
    expected: tuple[int, ...] = ()
    for _ in range(2):
        action: tuple[int, ...] = ()
        while action not in MOVES:
            at = len(action)
            allowed = sorted({move[at] for move in MOVES if move[:at] == action})
            sequence = torch.tensor([[*PROMPT, *expected, *action]])
            with torch.no_grad():
                logits = model(input_ids=sequence, use_cache=False).logits[0, -1]
            action = (*action, max(allowed, key=lambda token: float(logits[token])))
        expected = (*expected, *action)
    for outcome in found:
        assert isinstance(outcome, RolledOut)
        assert outcome.tokens == expected
    running.idle()


def test_a_rollout_of_actions_ends_at_its_limit_or_with_the_end_token(running: Running) -> None:
    cut: list[Outcome] = []
    ended: list[Outcome] = []
    sampling = Sampling(temperature=2.0, seed=1)
    running.run(completions(cut, Actions(((20, 21, 22),), 5), sampling, 7))
    running.run(completions(ended, Actions(((20, END_TOKEN),), 5), sampling, 7))
    for outcome in cut:
        assert isinstance(outcome, RolledOut)
        assert (outcome.tokens, outcome.finish) == ((20, 21, 22, 20, 21, 22, 20), "length")
    for outcome in ended:
        assert isinstance(outcome, RolledOut)
        assert (outcome.tokens, outcome.finish) == ((20, END_TOKEN), "eos")
    running.idle()


def test_rollouts_of_the_embedded_model_are_lines_of_the_list() -> None:
    lines = ("13 - 9 = 4 (left: 4 4 10)\n", "10 - 4 = 6 (left: 4 6)\n", "4 * 6 = 24\n", "no\n")
    model = served.load(DEMO, name="demo", pool_tokens=20_000, threads=1)
    encode = model.tokenizer.encode_part
    actions = Actions(tuple(tuple(encode(line)) for line in lines), 3)
    found: list[Outcome] = []

    def plan() -> Plan:
        (root,) = yield [Open(tuple(encode("Use 4 9 10 13 to make 24.\n")))]
        assert isinstance(root, Opened)
        sampling = Sampling(temperature=3.0, seed=1)
        found.extend(
            (
                yield [
                    Rollout(
                        root.state, sampling, (0, -1 - n), 90, critics=("orm",), actions=actions
                    )
                    for n in range(12)
                ]
            )
        )

    answered = threading.Event()
    try:
        model._engine.submit(
            Session(Scripted(plan()), Account(), lambda _: answered.set(), time.monotonic())
        )
        assert answered.wait(60)
    finally:
        model.close()
    texts: set[str] = set()
    for outcome in found:
        assert isinstance(outcome, RolledOut), outcome
        written = outcome.text.splitlines(keepends=True)
        assert set(written) <= set(lines)
        assert (len(written), outcome.finish) == (3, "step")
        assert "orm" in outcome.scores
        texts.add(outcome.text)
    assert len(texts) > 3
    assert all(pool.held == 0 for pool in model.gauges().pools.values())

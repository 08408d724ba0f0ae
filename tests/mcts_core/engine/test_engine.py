"""What would break: requests that change each other's results, bring each other down, wait for
ever, or leave KV behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from mcts_core.query import Reply
from mcts_core.search.work import (
    Boundary,
    Extend,
    Extended,
    Failed,
    Open,
    Opened,
    Option,
    Outcome,
    Release,
    RolledOut,
    Rollout,
    Sampling,
    Score,
    Scored,
    State,
)
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running
from tests.mcts_core.models_zoo import VOCABULARY, make

PROMPT = tuple(range(5, 16))
SICK = VOCABULARY - 1
NEVER_SICK = ((SICK, -100.0),)
STEP = Boundary(strings=("\n",))


def tree(into: list[Outcome], seed: int = 0, prompt: tuple[int, ...] = PROMPT) -> Plan:
    """Opens a prompt and grows two generations of options, with rollouts and all critics."""
    (root,) = yield [Open(prompt, ("value", "prm", "orm"))]
    into.append(root)
    assert isinstance(root, Opened)
    parents: list[State] = [root.state]
    sampling = Sampling(seed=seed, logit_bias=NEVER_SICK)
    for generation in range(2):
        children: list[State] = []
        works = [
            Extend(parent, sampling, (generation, 10 * at + n), STEP, 9, critics=("prm",))
            for at, parent in enumerate(parents)
            for n in range(3)
        ]
        outcomes = yield works
        for outcome in outcomes:
            into.append(outcome)
            assert isinstance(outcome, Extended)
            children += [option.state for option in outcome.options]
        hot = Sampling(seed=seed, temperature=1.5, logit_bias=NEVER_SICK)
        outcomes = yield [
            work
            for n, child in enumerate(children)
            for work in (
                Rollout(child, hot, (generation, n), 7, critics=("orm", "value")),
                Score(child, ("orm", "value")),
            )
        ]
        into += outcomes
        parents = children[:2]
        yield [*(Release(child) for child in children[2:]), Score(children[0], ("prm",))]


def facts(outcomes: Sequence[Outcome]) -> list[Any]:
    """All that an outcome says, but for the state objects."""
    found: list[Any] = []
    for outcome in outcomes:
        match outcome:
            case Opened():
                found.append((dict(outcome.scores), outcome.spent))
            case Extended():
                for option in outcome.options:
                    found.append((option.tokens, option.logprobs, option.draw_logprobs))
                    found.append((option.finish, option.draws, dict(option.scores)))
                    found.append((list(option.state.tokens), option.embedding))
                found.append(outcome.spent)
            case RolledOut():
                found.append((outcome.tokens, outcome.finish, dict(outcome.scores), outcome.spent))
            case Scored():
                found.append((dict(outcome.scores), outcome.spent))
            case Failed():
                found.append((outcome.reason, outcome.message))
    return found


def test_a_tree_is_the_same_bits_alone_and_among_others(running: Running) -> None:
    alone: list[Outcome] = []
    running.run(tree(alone, seed=5))
    for company in (3, 15):
        mine: list[Outcome] = []
        others = [tree([], seed=n, prompt=PROMPT[: 3 + n % 8]) for n in range(company)]
        running.run(*others[: company // 2], tree(mine, seed=5), *others[company // 2 :])
        assert facts(mine) == facts(alone)


def test_what_is_counted_adds_up_to_the_cost_of_each_piece_of_work(running: Running) -> None:
    outcomes: list[Outcome] = []
    ((*_, reply),) = running.run(tree(outcomes))
    assert isinstance(reply, Reply)
    costs = sum(getattr(outcome, "spent", 0) for outcome in outcomes)
    assert reply.account.spent == costs
    extended = [outcome for outcome in outcomes if isinstance(outcome, Extended)]
    tokens = sum(len(option.tokens) for outcome in extended for option in outcome.options)
    assert reply.account.policy.computed >= len(PROMPT) + tokens
    assert 0 < reply.account.shared_peak < 1
    assert reply.account.blocks_peak > 0


def test_a_critic_computes_each_new_token_of_the_tree_once(running: Running) -> None:
    def plan() -> Plan:
        (root,) = yield [Open(PROMPT, ("orm",))]
        assert isinstance(root, Opened)
        assert root.spent == 2 * len(PROMPT)
        children = yield [
            Extend(root.state, Sampling(), (1, n), Boundary(), 5, critics=("orm",))
            for n in range(4)
        ]
        for child in children:
            assert isinstance(child, Extended)
            (option,) = child.options
            assert child.spent == 2 * len(option.tokens)
            again = yield [Score(option.state, ("orm", "prm"))]
            assert isinstance(again[0], Scored)
            assert again[0].scores["orm"] == option.scores["orm"]
            assert again[0].spent == 0

    ((*_, reply),) = running.run(plan())
    assert reply.account.critics.computed == reply.account.policy.computed


def test_incremental_scores_are_those_of_the_whole_sequence(running: Running) -> None:
    outcomes: list[Outcome] = []
    running.run(tree(outcomes))
    resident = running.residents["orm"]
    trunk = make("qwen3", language_head=False)
    head = resident.heads["orm"]
    checked = 0
    states = [o.options[0] for o in outcomes if isinstance(o, Extended)]
    scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
    for state, score in zip(states, scored, strict=False):
        with torch.no_grad():
            ids = torch.tensor([list(state.state.tokens)])
            hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state[0, -1:]
            expected = float(head(hidden))
        assert score.scores["orm"] == pytest.approx(expected, abs=1e-5)
        checked += 1
    assert checked >= 3


def test_a_rollout_ends_where_the_rollout_models_own_context_does(running: Running) -> None:
    running.residents["rollout"].decoder.model.config.max_position_embeddings = len(PROMPT) + 3
    outcomes: list[Outcome] = []

    def plan(prompt: tuple[int, ...]) -> Plan:
        (root,) = yield [Open(prompt)]
        assert isinstance(root, Opened)
        sampling = Sampling(seed=1, logit_bias=((END_TOKEN, -100.0), *NEVER_SICK))
        outcomes.extend((yield [Rollout(root.state, sampling, (0, 0), 9, critics=("orm",))]))

    running.run(plan(PROMPT), plan((*PROMPT, *PROMPT)))
    done = next(outcome for outcome in outcomes if isinstance(outcome, RolledOut))
    assert (len(done.tokens), done.finish) == (3, "length")
    full = next(outcome for outcome in outcomes if isinstance(outcome, Failed))
    assert full.reason == "context_length"
    assert f"rollout: the context of {len(PROMPT) + 3} tokens" in full.message


def test_greedy_decoding_is_that_of_transformers_generate(running: Running) -> None:
    found: list[Option] = []

    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        state: State = root.state
        for _ in range(4):
            (option,) = yield [Extend(state, Sampling(temperature=0.0), (0, 0), Boundary(), 6)]
            assert isinstance(option, Extended)
            found.extend(option.options)
            state = option.options[0].state

    running.run(plan())
    model = make("llama")
    expected = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT)),
        max_new_tokens=24,
        do_sample=False,
        past_key_values=DynamicCache(config=model.config),
    )[0].tolist()
    ours = [token for option in found for token in option.tokens]
    assert ours == expected[len(PROMPT) : len(PROMPT) + len(ours)]


def test_options_drawn_together_are_those_drawn_one_by_one_for_the_tokens_they_differ_in(
    running: Running,
) -> None:
    """Draws share what they have in common; the result of each is its own."""
    cold = Sampling(top_k=2, seed=11)
    alone: list[Option] = []
    together: list[Extended] = []

    def plan() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        greedy = Extend(
            root.state, replace(cold, temperature=0.0), (4, 20), STEP, 3, critics=("prm",)
        )
        singles = [
            Extend(root.state, cold, (4, 21 + n), STEP, 3, critics=("prm",)) for n in range(11)
        ]
        for outcome in (yield [greedy, *singles]):
            assert isinstance(outcome, Extended)
            alone.extend(outcome.options)
        work = Extend(
            root.state,
            cold,
            (4, 20),
            draws=12,
            greedy_first=True,
            boundary=STEP,
            max_tokens=3,
            critics=("prm", "orm"),
        )
        (outcome,) = yield [work]
        assert isinstance(outcome, Extended)
        together.append(outcome)

    assert isinstance(running.run(plan())[0], list)
    options = together[0].options
    assert sorted(draw for option in options for draw in option.draws) == list(range(20, 32))
    by_draw = {draw: option for option in options for draw in option.draws}
    for draw, single in enumerate(alone, start=20):
        assert by_draw[draw].tokens == single.tokens
        assert by_draw[draw].logprobs == single.logprobs
        assert by_draw[draw].scores["prm"] == single.scores["prm"]
    assert len({option.tokens for option in options}) == len(options) < 12
    prefixes = {option.tokens[: n + 1] for option in options for n in range(len(option.tokens))}
    critic = len(PROMPT) + sum(len(option.tokens) for option in options)
    assert together[0].spent == len(prefixes) + critic


def test_a_prompt_that_can_never_fit_fails_with_its_reason_beside_a_healthy_request() -> None:
    small = Running(blocks=12)
    reasons: list[Outcome] = []

    def hopeless() -> Plan:
        reasons.extend((yield [Open(tuple(3 + n % 90 for n in range(100)))]))

    def healthy() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 9)]

    answers = small.run(healthy(), hopeless(), healthy())
    assert [type(answer).__name__ for answer in answers] == ["list", "list", "list"]
    assert isinstance(reasons[0], Failed)
    assert reasons[0].reason == "kv_exhausted"
    small.idle()
    small.close()


@pytest.fixture
def sick_token(running: Running) -> Iterator[int]:
    """A token whose embedding is not a number: whoever reads it gets logits that are none."""
    token = SICK
    embedding = running.residents["policy"].decoder.model.get_input_embeddings()
    kept = embedding.weight[token].clone()
    embedding.weight.data[token] = float("nan")
    yield token
    embedding.weight.data[token] = kept


def test_logits_that_are_not_finite_fail_their_own_request_only(
    running: Running, sick_token: int
) -> None:
    expected: list[Outcome] = []
    running.run(tree(expected, seed=2))
    sick: list[Outcome] = []

    def poisoned() -> Plan:
        sick.extend((yield [Open((*PROMPT, sick_token))]))

    for _ in range(3):
        healthy: list[Outcome] = []
        running.run(poisoned(), tree(healthy, seed=2), poisoned())
        assert facts(healthy) == facts(expected)
    assert {outcome.reason for outcome in sick if isinstance(outcome, Failed)} == {"numeric"}
    assert len([outcome for outcome in sick if isinstance(outcome, Failed)]) == 6


def test_work_that_breaks_while_it_is_done_fails_alone(running: Running) -> None:
    broken: list[Outcome] = []

    def odd() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        broken.extend((yield [Score(root.state, ("nobody",))]))

    outcomes: list[Outcome] = []
    _, healthy = running.run(odd(), tree(outcomes))
    assert isinstance(broken[0], Failed)
    assert broken[0].reason == "internal"
    assert isinstance(healthy, list)


def test_a_failing_forward_fails_what_was_in_it_and_the_engine_goes_on(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = running.residents["policy"]
    forward = resident.forward
    calls = 0

    def fails_once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("the device is out of memory")
        return forward(*arguments)

    monkeypatch.setattr(resident, "forward", fails_once)
    outcomes: list[Outcome] = []
    running.run(tree(outcomes))
    assert any(isinstance(outcome, Failed) for outcome in outcomes)
    monkeypatch.undo()
    running.idle()
    again: list[Outcome] = []
    assert isinstance(running.run(tree(again))[0], list)


def test_a_small_request_is_not_starved_by_a_wide_tree() -> None:
    crowded = Running(max_tokens=16, blocks=4000)
    order: list[str] = []

    def wide() -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        yield [Extend(root.state, Sampling(seed=n), (0, n), Boundary(), 30) for n in range(64)]
        order.append("wide")

    def small() -> Plan:
        (root,) = yield [Open(PROMPT[:3])]
        assert isinstance(root, Opened)
        yield [Extend(root.state, Sampling(), (0, 0), Boundary(), 30)]
        order.append("small")

    crowded.run(wide(), small())
    assert order == ["small", "wide"]
    crowded.idle()
    crowded.close()


def in_pieces(into: list[Option], stop: tuple[str, ...], *lengths: int) -> Plan:
    """Opens a prompt and draws one option after the other, of so many tokens each."""
    (root,) = yield [Open(PROMPT)]
    assert isinstance(root, Opened)
    state = root.state
    greedy = Sampling(temperature=0.0, logit_bias=((END_TOKEN, -100.0), *NEVER_SICK))
    for node, length in enumerate(lengths):
        boundary = Boundary(tokens=length)
        (outcome,) = yield [Extend(state, greedy, (node, 0), boundary, 50, stop)]
        assert isinstance(outcome, Extended)
        (option,) = outcome.options
        into.append(option)
        if option.finish != "step":
            break
        state = option.state


def test_options_of_so_many_tokens_have_so_many(running: Running) -> None:
    options: list[Option] = []
    running.run(in_pieces(options, (), 3, 1, 4))
    assert [len(option.tokens) for option in options] == [3, 1, 4]
    assert [option.finish for option in options] == ["step"] * 3
    running.idle()


def test_a_stop_string_is_seen_across_options(running: Running) -> None:
    plain: list[Option] = []
    running.run(in_pieces(plain, (), 12))
    text = plain[0].text
    stop = text[2:5]
    at = text.find(stop)
    stopped: list[Option] = []
    running.run(in_pieces(stopped, (stop,), at + 1, 1, 9))
    assert stopped[-1].finish == "stop"
    assert (stopped[-1].text, stopped[-1].cut) == ("", 2)
    assert len(stopped[-1].tokens) == 1, "the option ends with the token that completes it"
    running.idle()


def test_an_options_embedding_is_the_mean_hidden_state_of_its_tokens(running: Running) -> None:
    drawn: list[Option] = []

    def plan(into: list[Option]) -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        sampling = Sampling(seed=3, top_k=3, logit_bias=NEVER_SICK)
        (outcome,) = yield [Extend(root.state, sampling, (0, 0), max_tokens=5, draws=6, embed=True)]
        assert isinstance(outcome, Extended)
        into.extend(outcome.options)

    running.run(plan(drawn))
    assert len(drawn) > 1, "draws that part sum up their own tokens"
    model = make("llama")
    for option in drawn:
        assert option.embedding is not None
        with torch.no_grad():
            ids = torch.tensor([[*PROMPT, *option.tokens]])
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        mean = hidden[len(PROMPT) :].mean(dim=0)
        expected = (mean / mean.norm()).tolist()
        assert list(option.embedding) == pytest.approx(expected, abs=1e-5)
    among: list[Option] = []
    running.run(*(tree([], seed=n) for n in range(5)), plan(among))
    assert [option.embedding for option in among] == [option.embedding for option in drawn]
    assert all(option.embedding is None for option in embeddings_not_asked_for(running))


def embeddings_not_asked_for(running: Running) -> list[Option]:
    options: list[Option] = []
    running.run(in_pieces(options, (), 2, 2))
    return options

"""What would break: answers that depend on who else is there, are not the models' own, or are
counted wrong."""

from __future__ import annotations

from dataclasses import replace

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
    RolledOut,
    Rollout,
    Sampling,
    Score,
    Scored,
    State,
)
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running
from tests.mcts_core.engine.plans import NEVER_SICK, PROMPT, STEP, facts, tree
from tests.mcts_core.models_zoo import make


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

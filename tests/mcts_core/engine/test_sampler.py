"""What would break: a row drawn by another's rules, or from another distribution than it says."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcts_core.engine import sampler
from mcts_core.engine.compiled_sampler import CompiledSampler
from mcts_core.engine.sampler import Draw, sample
from mcts_core.kernels import libraries
from mcts_core.models.logits import LogitsRow, rows_of
from mcts_core.search.work import Sampling

LOGITS = torch.tensor([[0.1, 2.0, -1.0, 1.5, 0.0, -3.0]])


@pytest.fixture(autouse=True, params=["torch", "amx", "avx512_bf16", "avx512", "avx2"])
def _each_sampler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here speaks of all."""
    if request.param != "torch":
        monkeypatch.setattr(sys.modules[__name__], "sample", compiled(request.param))


def compiled(name: str) -> CompiledSampler:
    for library in libraries():
        if library.name == name:
            return CompiledSampler(library)
    pytest.skip(f"this CPU cannot run the kernel {name}, or it was not built")


def row(
    sampling: Sampling,
    noise: float,
    factors: dict[int, float] | None = None,
    history: tuple[int, ...] = (),
    prompt: int = 0,
) -> Draw:
    return Draw(sampling, sampling.temperature == 0, noise, factors or {}, history, prompt)


def one(noise: float = 0.5, history: tuple[int, ...] = (), prompt: int = 0, **fields: Any) -> int:
    drawn = sample(
        rows_of(LOGITS), [row(Sampling(**fields), noise, history=history, prompt=prompt)]
    )[0]
    assert drawn is not None
    return drawn.logprob.token


def reachable(**fields: Any) -> set[int]:
    noises = [step / 400 for step in range(400)]
    rows = [row(Sampling(**fields), noise) for noise in noises]
    return {
        drawn.logprob.token
        for drawn in sample(rows_of(LOGITS) * len(rows), rows)
        if drawn is not None
    }


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert one(temperature=0.0) == 1


def test_noise_is_inverted_through_the_softmax_at_the_temperature() -> None:
    for temperature in (0.5, 1.0, 2.0):
        probabilities = (LOGITS[0] / temperature).softmax(0)
        edges = probabilities.cumsum(0).tolist()
        for token, edge in enumerate(edges):
            if probabilities[token] > 1e-3:
                assert one(edge - 1e-4, temperature=temperature) == token


def test_the_largest_noise_still_gives_a_token_that_can_be() -> None:
    assert one(1 - 2**-53, top_k=2) in {1, 3}


def test_top_k_top_p_and_min_p_keep_what_they_say() -> None:
    assert reachable(top_k=2) == {1, 3}
    assert reachable(top_p=0.6) == {1, 3}
    assert reachable(top_p=0.01) == {1}
    assert reachable(min_p=0.5) == {1, 3}
    assert len(reachable(temperature=2.0)) == 6


@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
def test_filters_keep_the_heaviest_of_a_large_vocabulary_and_no_more(spread: float) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = (torch.randn(3000, generator=generator) * spread * 4).round() / 4  # many are equal
    heaviest = logits.double().softmax(-1).sort(descending=True).values
    before = heaviest.cumsum(-1) - heaviest

    def kept(**fields: Any) -> float:
        (drawn,) = sample([LogitsRow.alone(logits)], [row(Sampling(**fields), 0.3)])
        assert drawn is not None
        return math.exp(drawn.logprob.logprob - drawn.draw_logprob)

    for count in (1, 33, 150, 2500):
        assert kept(top_k=count) == pytest.approx(float(heaviest[:count].sum()), rel=1e-4)
    for mass in (0.05, 0.2, 0.7, 0.99):
        expected = heaviest[before < mass].sum()
        assert kept(top_p=mass) == pytest.approx(float(expected), rel=1e-4)
        expected = heaviest[:20][before[:20] < mass].sum()
        assert kept(top_p=mass, top_k=20) == pytest.approx(float(expected), rel=1e-4)
    for least in (0.001, 0.3, 0.99):
        expected = heaviest[heaviest >= least * heaviest[0]].sum()
        assert kept(min_p=least) == pytest.approx(float(expected), rel=1e-4)
        assert kept(min_p=least, top_k=3000) == pytest.approx(float(expected), rel=1e-4)


def test_bias_and_penalties_move_the_tokens_they_name() -> None:
    assert one(temperature=0.0, logit_bias=((5, 100.0),)) == 5
    assert one(temperature=0.0, logit_bias=((1, -100.0),)) == 3
    assert one(temperature=0.0, history=(1,), presence_penalty=1.0) == 3
    assert one(temperature=0.0, history=(1, 1), frequency_penalty=0.3) == 3
    assert one(temperature=0.0, history=(1,), repetition_penalty=1.5) == 3
    # the prompt's tokens count for the repetition penalty only
    assert one(temperature=0.0, history=(1,), prompt=1, presence_penalty=1.0) == 1


def test_logprobs_are_the_models_own_whatever_was_sampled_from() -> None:
    own = LOGITS[0].log_softmax(0)
    sampling = Sampling(temperature=0.3, logit_bias=((2, 50.0),), logprobs=3)
    drawn = sample(rows_of(LOGITS), [row(sampling, 0.5)])[0]
    assert drawn is not None
    assert drawn.logprob.token == 2
    assert drawn.logprob.logprob == pytest.approx(float(own[2]), abs=1e-6)
    assert [token for token, _ in drawn.logprob.top] == [1, 3, 0]
    assert drawn.logprob.top[0][1] == pytest.approx(float(own[1]), abs=1e-6)
    assert drawn.draw_logprob == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 40),
    noise=st.floats(0, 1, exclude_max=True),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_a_row_is_drawn_the_same_alone_and_in_any_company(
    count: int, noise: float, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count + 1, 50, generator=generator) * 3
    mine = row(Sampling(temperature=temperature), noise, {3: 0.5})
    others = [
        row(Sampling(temperature=1.0, top_k=n % 3, top_p=0.9), n / count, {1: 0.1}, (4,))
        for n in range(count)
    ]
    at = seed % (count + 1)
    together = sample(rows_of(logits), [*others[:at], mine, *others[at:]])[at]
    assert together == sample([LogitsRow.alone(logits[at])], [mine])[0]


def test_a_row_that_is_not_finite_fails_alone() -> None:
    logits = torch.cat([LOGITS, LOGITS * math.nan, LOGITS])
    rows = [row(Sampling(temperature=0.0), 0.0)] * 3
    first, sick, last = sample(rows_of(logits), rows)
    assert sick is None
    assert first == last != None  # noqa: E711


def test_a_temperature_that_is_hardly_above_zero_takes_the_most_likely_token() -> None:
    for temperature in (1e-3, 1e-30, 1e-300):
        assert one(0.999, temperature=temperature) == 1


def test_a_row_with_nothing_left_to_draw_fails_alone() -> None:
    nothing = Sampling(logit_bias=tuple((token, -math.inf) for token in range(6)))
    absurd = Sampling(repetition_penalty=1e-300)
    rows = [row(nothing, 0.5), row(absurd, 0.5, history=(1,)), row(Sampling(), 0.5)]
    first, second, healthy = sample(rows_of(LOGITS) * 3, rows)
    assert first is None
    assert second is None
    assert healthy is not None


def test_asking_for_more_than_the_vocabulary_gives_all_of_it() -> None:
    assert len(reachable(top_k=100, temperature=2.0)) == 6
    drawn = sample(rows_of(LOGITS), [row(Sampling(logprobs=20), 0.5)])[0]
    assert drawn is not None
    assert len(drawn.logprob.top) == 6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it replaces no state
@given(st.data())
def test_the_compiled_samplers_draw_what_torch_does(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    logits = torch.randn(size, generator=generator) * data.draw(st.sampled_from((0.1, 3.0, 20.0)))
    sampling = Sampling(
        seed=0,
        temperature=data.draw(st.sampled_from((0.0, 0.3, 1.0, 1.7))),
        top_k=data.draw(st.sampled_from((0, 1, 5, 400))),
        top_p=data.draw(st.sampled_from((1.0, 0.9, 0.1))),
        min_p=data.draw(st.sampled_from((0.0, 0.05, 0.9))),
        repetition_penalty=data.draw(st.sampled_from((1.0, 1.3))),
        logprobs=data.draw(st.integers(0, 3)),
    )
    taken = data.draw(st.dictionaries(st.integers(0, size - 1), st.sampled_from((0.0, 0.4))))
    # Nearer to 0 are only tokens of no probability, which are told apart by denormal numbers.
    noise = data.draw(st.floats(1e-6, 0.9999))
    near = [min(max(noise + step, 0.0), 1 - 2**-53) for step in (-1e-5, 0.0, 1e-5)]
    asked = [row(sampling, each, taken, history=(0, size // 2)) for each in near]
    theirs = sampler.sample([LogitsRow.alone(logits)] * 3, asked)
    (ours,) = sample([LogitsRow.alone(logits)], asked[1:2])
    assert ours is not None
    # At the edge between two tokens either may come out, by the last bit of a sum.
    same = [each for each in theirs if each and each.logprob.token == ours.logprob.token]
    assert same
    assert ours.logprob.logprob == pytest.approx(same[0].logprob.logprob, abs=1e-4)
    assert ours.draw_logprob == pytest.approx(same[0].draw_logprob, abs=1e-4)
    assert ours.logprob.top == same[0].logprob.top

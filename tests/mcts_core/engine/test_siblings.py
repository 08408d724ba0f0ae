"""What would break: duplicates among siblings, or new options that do not follow the policy."""

from __future__ import annotations

from collections import Counter
from itertools import count
from math import log

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.engine.noise import uniform
from mcts_core.engine.sampler import Draw, sample
from mcts_core.engine.siblings import SiblingFilter
from mcts_core.models.logits import LogitsRow
from mcts_core.search.work import Sampling, Sibling

END = 0


def table(seed: int) -> dict[tuple[int, ...], list[float]]:
    """A small language: next-token probabilities after every prefix of up to three tokens; token 0
    ends an option."""
    language: dict[tuple[int, ...], list[float]] = {}
    keys = count()
    prefixes: list[tuple[int, ...]] = [()]
    while prefixes:
        prefix = prefixes.pop()
        if len(prefix) == 3:
            language[prefix] = [1.0, 0.0, 0.0]
            continue
        weights = [uniform(seed, next(keys), 0, token) + 0.05 for token in range(3)]
        language[prefix] = [weight / sum(weights) for weight in weights]
        prefixes += [(*prefix, 1), (*prefix, 2)]
    return language


def draw(
    language: dict[tuple[int, ...], list[float]], siblings: list[Sibling], key: int
) -> Sibling:
    tokens: list[int] = []
    logprobs: list[float] = []
    avoid = SiblingFilter(siblings)
    while not tokens or tokens[-1] != END:
        probabilities = language[tuple(tokens)]
        noise = uniform(1, key, 0, len(tokens))
        row = Draw(Sampling(), False, noise, avoid.factors(), tokens, 0)
        logits = torch.tensor(probabilities).log()
        drawn = sample([LogitsRow.alone(logits)], [row])[0]
        assert drawn is not None
        token = drawn.logprob.token
        tokens.append(token)
        logprobs.append(log(probabilities[token]))
        avoid.follow(token)
    return Sibling(tuple(tokens), tuple(logprobs))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_all_options_are_drawn_once_before_any_is_drawn_twice(seed: int) -> None:
    language = table(seed)
    # 1 empty option, and one for each of the 2 + 4 + 8 texts
    siblings: list[Sibling] = []
    for key in range(15):
        siblings.append(draw(language, siblings, key))
    assert len({sibling.tokens for sibling in siblings}) == 15


def test_the_second_draw_follows_the_policy_given_that_it_is_not_the_first() -> None:
    language = table(3)
    first = draw(language, [], 0)

    def probability(option: tuple[int, ...]) -> float:
        product = 1.0
        for at, token in enumerate(option):
            product *= language[option[:at]][token]
        return product

    trials = 4000
    found = Counter(draw(language, [first], key).tokens for key in range(1, trials))
    assert first.tokens not in found
    left = 1 - probability(first.tokens)
    for option, times in found.most_common(6):
        expected = probability(option) / left
        assert abs(times / trials - expected) < 4 * (expected / trials) ** 0.5


def test_when_nothing_new_is_left_an_old_option_is_drawn_again() -> None:
    logits = torch.tensor([2.0, 1.0])
    row = Draw(Sampling(), False, 0.3, {0: 0.0, 1: 0.0}, [], 0)
    drawn = sample([LogitsRow.alone(logits)], [row])[0]
    assert drawn is not None
    assert drawn.logprob.token == 0

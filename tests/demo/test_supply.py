"""What would break: a second process that supplies other batches than the first would have made."""

import dataclasses
import itertools

import torch

from demo.batches import Encoder
from demo.corpus import Corpus
from demo.plan import Plan
from demo.supply import batches, supply, twice
from demo.tokenizer import build_tokenizer

PLAN = Plan(solutions=3, openings=2, walks=2, first_steps=2, dead_ends=1)


def test_what_is_supplied_is_what_would_be_made_here() -> None:
    encoder = Encoder(build_tokenizer())
    here, there = batches(Corpus(5), encoder, PLAN), supply(Corpus(5), encoder, PLAN)
    for own, other in itertools.islice(zip(here, there, strict=False), 6):
        assert len(own) == len(other)
        for one, two in zip(own, other, strict=True):
            assert torch.equal(one.ids, two.ids)
            assert torch.equal(one.target_shares, two.target_shares)


def test_each_group_is_used_twice_and_far_apart() -> None:
    groups = list(itertools.islice(batches(Corpus(5), Encoder(build_tokenizer()), PLAN), 300))
    numbers = {id(group): number for number, group in enumerate(groups)}
    used = [numbers[id(group)] for group in twice(groups, seed=0)]
    places: dict[int, list[int]] = {}
    for at, index in enumerate(used):
        places.setdefault(index, []).append(at)
    assert sorted(places) == list(range(300))
    assert len(used) == 500  # the last hundred still wait
    apart = [later - first for first, later in (p for p in places.values() if len(p) == 2)]
    assert sorted(apart)[len(apart) // 2] > 50
    plan = dataclasses.replace(PLAN, twice=True)
    supplied = supply(Corpus(5), Encoder(build_tokenizer()), plan)
    for own, index in zip(itertools.islice(supplied, 120), used, strict=False):
        assert torch.equal(own[0].ids, groups[index][0].ids)


def test_trajectories_with_fractions_wait_for_their_own_batch() -> None:
    made = itertools.islice(batches(Corpus(5), Encoder(build_tokenizer()), PLAN), 40)
    sizes = [[len(batch.ids) for batch in group] for group in made]
    assert all(group[:2] == [6, 4] for group in sizes)
    assert {len(group) for group in sizes} == {2, 3}
    assert all(group[2] >= 6 for group in sizes if len(group) == 3)

"""What would break: a second process that supplies other batches than the first would have made."""

import itertools

import torch

from demo.batches import Encoder
from demo.corpus import Corpus
from demo.plan import Plan
from demo.supply import batches, supply
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


def test_trajectories_with_fractions_wait_for_their_own_batch() -> None:
    made = itertools.islice(batches(Corpus(5), Encoder(build_tokenizer()), PLAN), 40)
    sizes = [[len(batch.ids) for batch in group] for group in made]
    assert all(group[:2] == [6, 4] for group in sizes)
    assert {len(group) for group in sizes} == {2, 3}
    assert all(group[2] >= 6 for group in sizes if len(group) == 3)

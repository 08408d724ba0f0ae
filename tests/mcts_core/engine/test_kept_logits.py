"""What would break: states whose logits fill the memory beside the pool, or that are drawn from
otherwise when they lost theirs."""

from __future__ import annotations

import pytest
import torch

from mcts_core.engine import kept_logits
from mcts_core.engine.kept_logits import KeptLogits
from mcts_core.engine.state import Seat
from mcts_core.kv.storage import KVStorage
from mcts_core.models.logits import LogitsRow, rows_of
from mcts_core.query import Reply
from mcts_core.search.work import Account, Outcome
from tests.mcts_core.engine.harness import Running
from tests.mcts_core.engine.plans import facts
from tests.mcts_core.engine.test_preemption import LONG, bushy

CPU = torch.device("cpu")


def only(monkeypatch: pytest.MonkeyPatch, states: int) -> None:
    monkeypatch.setattr(kept_logits, "LOGITS_SHARE", 0.0)
    monkeypatch.setattr(kept_logits, "_LEAST", states)


def test_the_states_drawn_from_longest_ago_lose_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, 2)
    kept, step = (
        KeptLogits(KVStorage(4, 4, torch.float32, CPU)),
        rows_of(torch.arange(12.0).view(3, 4)),
    )
    first, second, third = seats = [Seat(length=n) for n in (1, 2, 3)]
    kept.keep(first, step[0])
    kept.keep(second, step[1])
    warm = kept.take(first)
    assert warm is not None
    assert warm.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert warm.untyped_storage().nbytes() == 16, "a row of its own, not the step's tensor"
    kept.keep(third, step[2])
    assert [seat.logits is not None for seat in seats] == [True, False, True]
    assert kept.take(second) is None


def test_states_that_are_gone_leave_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, 2)
    kept, row = KeptLogits(KVStorage(4, 4, torch.float32, CPU)), LogitsRow.alone(torch.zeros(4))
    lasting = Seat(length=1)
    kept.keep(lasting, row)
    for length in range(10):
        kept.keep(Seat(length=length), row)
    assert lasting.logits is not None


def test_the_room_is_a_share_of_the_pool_in_use() -> None:
    """Keys and values of 2 heads of 8 in float32, 128 bytes a token; a sixteenth of 64,000 tokens'
    is that of 125 rows of 1,024."""
    storage, row = KVStorage(4000, 16, torch.float32, CPU), LogitsRow.alone(torch.zeros(1024))
    storage.tensors(0, 2, 8, 8)
    kept = KeptLogits(storage)
    seats = [Seat(length=length) for length in range(200)]
    for seat in seats:
        kept.keep(seat, row)
    assert (
        sum(seat.logits is not None for seat in seats)
        == 64_000 * 128 // 16 // row.step.nbytes
        == 125
    )
    storage.resize(8000)
    for seat in (*seats, *seats):
        kept.keep(seat, row)
    assert all(seat.logits is not None for seat in seats), "a pool twice as large has room for 250"


@pytest.mark.parametrize(("states", "prompt"), [(0, 32), (0, 37), (3, 48)])
def test_a_tree_grows_as_if_all_were_kept_and_pays_no_more(
    monkeypatch: pytest.MonkeyPatch, states: int, prompt: int
) -> None:
    """Prompts that end with a tile of attention, too: their last token is computed with it."""

    def grown() -> tuple[list[object], Account]:
        running, found = Running(), list[Outcome]()
        (answer,) = running.run(bushy(found, 5, LONG[:prompt]))
        running.idle()
        running.close()
        assert isinstance(answer[-1], Reply)
        return facts(found), answer[-1].account

    expected, rich = grown()
    only(monkeypatch, states)
    found, poor = grown()
    assert found == expected
    assert poor.spent == rich.spent
    assert poor.policy.computed > rich.policy.computed, "some tokens once more"

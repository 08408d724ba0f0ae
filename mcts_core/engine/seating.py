"""Where states sit: seats in models, and the runs that compute what a seat lacks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from mcts_core.engine.decode import Decode
from mcts_core.engine.pending import WorkFailed
from mcts_core.engine.resident import Resident
from mcts_core.engine.run import Run
from mcts_core.engine.session import Job, Session
from mcts_core.engine.state import NodeState, Seat
from mcts_core.kv.branch import Branch
from mcts_core.models.logits import LogitsRow
from mcts_core.search.work import Account, Failed, Tally

POLICY = "policy"
ROLLOUT = "rollout"
RELEASED = Failed("internal", "the state was released while it was in use")


class Seating:
    """All runs under way, and how states come to their seats."""

    def __init__(
        self, residents: Mapping[str, Resident], context_length: int, *, prefix_cache: bool = True
    ) -> None:
        """`prefix_cache` keeps the KV of prompts for later requests, as long as there is room."""
        self._residents = residents
        self._context_length = context_length
        self._prefix_cache = prefix_cache
        self.runs: list[Run] = []
        self.parked: list[Run] = []
        """Runs that gave up their KV because a pool is full; they begin again later."""

    def seat(self, job: Job, state: NodeState, model: str) -> Seat:
        """The state's seat in a model; if it has none, a run is begun that computes what is
        missing since the nearest ancestor that has one, and seats those on the way as well."""
        known = state.seats.get(model)
        if known is not None and known.failure is None:
            return known
        if state.released:
            raise WorkFailed(RELEASED)
        limit = self._residents[model].decoder.context_length
        if model not in (POLICY, ROLLOUT) and len(state.tokens) > limit:
            message = f"{model}: the context of {limit} tokens is full"
            raise WorkFailed(Failed("critic_error", message))
        path: list[NodeState] = []
        base: Seat | None = None
        for ancestor in state.ancestry():
            base = ancestor.seats.get(model)
            if base is not None and not base.released:
                break
            base = None
            path.append(ancestor)
        # Nobody comes back to a released state on the way.
        path = [ancestor for ancestor in reversed(path) if not ancestor.released]
        seats = [Seat(length=len(missing.tokens)) for missing in path]
        for missing, seat in zip(path, seats, strict=True):
            missing.seats[model] = seat
        if self._prefix_cache and path[0].parent is None:
            seats[0].waiters.append(partial(self._keep, job.session, path[0], model))
        run = self._run(job, model, state, state.tokens, base, seats=seats)
        run.root = seats[0] if path[0].parent is None else None
        if base is None or base.settled:
            self._begin(run, base)
        else:
            base.waiters.append(partial(self._begin, run, base))
        return seats[-1]

    def extend(
        self,
        job: Job,
        parent: NodeState,
        seat: Seat,
        model: str,
        decode: Decode,
        *,
        compute_last: bool = True,
    ) -> Run:
        """Begins a run that draws an option after `parent`."""
        if seat.hidden is None:
            raise WorkFailed(RELEASED)
        if len(parent.tokens) >= self._context_length:
            message = f"the model's context of {self._context_length} tokens is full"
            raise WorkFailed(Failed("context_length", message))
        tokens = list(parent.tokens)
        run = self._run(job, model, parent, tokens, seat, decode=decode, compute_last=compute_last)
        run.family.append(run)
        self._begin(run, seat)
        return run

    def room(self, state: NodeState, model: str) -> int:
        """Tokens that the model's own context has left after `state`; raises `WorkFailed` when
        there are none."""
        context = self._residents[model].decoder.context_length
        if len(state.tokens) >= context:
            message = f"{model}: the context of {context} tokens is full"
            raise WorkFailed(Failed("context_length", message))
        return context - len(state.tokens)

    def attach(self, run: Run) -> None:
        """Gives a run the KV that is there already: that of the nearest ancestor that has some, or
        else what earlier prompts have in common with its own. A draw from a state whose logits are
        not kept computes its last token again."""
        run.branch.release()
        run.seats = [seat for seat in run.seats if not seat.settled]
        run.evicted = evicted = []
        run.found = False
        logits: torch.Tensor | None = None
        for state in run.origin.ancestry():
            seat = state.seats.get(run.model)
            if seat is not None and seat.branch is not None:
                resident = self._residents[run.model]
                drawing = run.decode is not None and seat.length == len(run.tokens)
                if drawing:
                    logits = resident.logits.take(seat)
                if drawing and logits is None:
                    run.branch = seat.branch.fork(resident.before_last(seat.length))
                    evicted.append(seat)
                else:
                    run.branch = seat.branch.fork()
                break
            if seat is not None and seat.evicted:
                evicted.append(seat)
        else:
            run.branch = self._beginning(run)
            run.found = True
        if run.decode is not None:
            run.decode.logits = None if logits is None else LogitsRow.alone(logits)

    def count(self, run: Run) -> None:
        """Counts what a run has begun with: KV that is there need not be computed."""
        run.tally.cached += run.branch.length
        if run.found:
            run.branch.pool.found_tokens += run.branch.length

    def vacate(self, run: Run) -> None:
        """Takes a run's blocks back before it is done; cleaned, if nobody has looked yet whether
        what it computed last is finite."""
        if run.draws_next:
            self._residents[run.model].scrub(run.branch)
        run.branch.release()

    def fail(self, run: Run, failed: Failed) -> None:
        """Gives a run up: its blocks are cleaned and returned, and those who wait for it hear."""
        self._residents[run.model].scrub(run.branch)
        run.branch.release()
        for seat in run.seats:
            if not seat.settled:
                seat.released = True
                seat.settle(failed)
        run.settle(failed)

    def sweep(self) -> None:
        """Forgets the runs that are settled."""
        self.runs = [run for run in self.runs if not run.settled]
        if self.parked:
            self.parked = [run for run in self.parked if not run.settled]

    def drop(self, session: Session) -> None:
        """Forgets a request's runs."""
        for run in self.runs:
            if run.job.session is session and not run.settled:
                self.vacate(run)
        self.runs = [run for run in self.runs if run.job.session is not session]
        self.parked = [run for run in self.parked if run.job.session is not session]

    def _run(
        self,
        job: Job,
        model: str,
        origin: NodeState,
        tokens: list[int],
        base: Seat | None,
        *,
        seats: Sequence[Seat] = (),
        decode: Decode | None = None,
        compute_last: bool = True,
    ) -> Run:
        # The policy draws what follows the prompt token by token; other models read whole options.
        stretches = [origin.prompt_length]
        if model != POLICY:
            stretches = sorted(len(state.tokens) for state in origin.ancestry())
        return Run(
            job=job,
            model=model,
            branch=Branch(self._residents[model].pool, job.session.ledger),
            tokens=tokens,
            tally=_tally(job.session.account, model),
            origin=origin,
            stretches=stretches,
            charged=0 if base is None else base.length,
            seats=seats,
            decode=decode,
            compute_last=compute_last,
        )

    def _begin(self, run: Run, base: Seat | None) -> None:
        """Begins a run, whose base has been computed."""
        if base is not None and base.failure is not None:
            self.fail(run, base.failure)
        elif base is not None and base.released:
            self.fail(run, RELEASED)
        elif not run.job.session.ended:
            if self._prefix_cache and base is None:
                run.leader = self._leader(run)
            if run.leader is None:
                self._enter(run)
            self.runs.append(run)

    def waits(self, run: Run) -> bool:
        """Whether a run that came first is computing what this one begins with. Once that is known,
        or given up, the run goes on from what is there."""
        if run.leader is not None and run.leader.leads and run.leader.known < run.awaited:
            return True
        run.leader = self._leader(run)  # another may have gone on from there by now
        if run.leader is None:
            self._enter(run)
        return run.leader is not None

    def _enter(self, run: Run) -> None:
        """Gives a run that begins what there is to begin with."""
        self.attach(run)
        self.count(run)
        account = run.job.session.account
        if run.model == POLICY and run.root is not None and account.prompt_cached is None:
            account.prompt_cached = run.branch.length

    def _leader(self, run: Run) -> Run | None:
        """The run that is computing the longest beginning of this one's prompt, if that is more
        than is known. Whoever leads ranks before those who wait for it, and waits for nobody: so
        however many prompts come together, each is compared with few others."""
        resident, salt = self._residents[run.model], run.job.session.cache_salt
        tokens = run.tokens[: self._beginnings(run)]
        longest = len(resident.pool.find(salt, tokens)) * resident.pool.block_size
        found: Run | None = None
        for other in self.runs:
            if longest >= len(tokens):
                break
            leads = other.leads and other.leader is None and other.rank < run.rank
            if other.model == run.model and leads:
                common = resident.whole(_common(tokens, other.tokens[: other.prompt_length]))
                if common > longest and other.job.session.cache_salt == salt:
                    found, longest = other, common
        run.awaited = longest
        return found

    def share(self, run: Run) -> None:
        """Makes known what a run has computed of its prompt, if others wait for that: they need not
        wait for the rest of it."""
        if run.root is None or run.root.settled:
            return
        if not any(other.leader is run for other in self.runs):
            return
        resident, salt = self._residents[run.model], run.job.session.cache_salt
        whole = resident.whole(min(run.branch.length, run.prompt_length))
        if whole > run.known:
            tokens = run.tokens[:whole]
            self._make_known(resident, salt, tokens, run.branch.blocks)
            run.known = len(resident.pool.find(salt, tokens)) * resident.pool.block_size

    def _beginning(self, run: Run) -> Branch:
        """A branch over the blocks in which earlier prompts begin like this run's."""
        resident = self._residents[run.model]
        branch = Branch(resident.pool, run.job.session.ledger)
        if self._prefix_cache:
            tokens = run.tokens[: self._beginnings(run)]
            found = resident.pool.find(run.job.session.cache_salt, tokens)
            size = resident.pool.block_size
            branch.adopt(found[: resident.whole(len(found) * size) // size])
            run.charge(branch.length)
        return branch

    def _beginnings(self, run: Run) -> int:
        """How many of the run's first tokens others may have computed for it: in whole blocks, and
        never the last token of the first state on the way, whose hidden state or logits are
        wanted."""
        wanted = [seat.length for seat in (*run.seats, *run.evicted)]
        last = min(wanted, default=len(run.tokens)) - 1
        return self._residents[run.model].whole(min(last, run.prompt_length))

    def _keep(self, session: Session, root: NodeState, model: str) -> None:
        """Makes a prompt's blocks known to later requests, once they are computed."""
        seat, resident = root.seats[model], self._residents[model]
        if seat.branch is None:
            return
        tokens = root.tokens[: resident.whole(len(root.tokens))]
        self._make_known(resident, session.cache_salt, tokens, seat.branch.blocks)

    @staticmethod
    def _make_known(
        resident: Resident, salt: str | None, tokens: Sequence[int], blocks: Sequence[int]
    ) -> None:
        """Lets others find whole blocks of `tokens`, which are the first of `blocks`."""
        known = len(resident.pool.find(salt, tokens))
        blocks = blocks[: len(tokens) // resident.pool.block_size]
        # A row whose neighbours are not finite may be finite itself, behind an attention window.
        if len(blocks) > known and resident.storage.finite(blocks[known:]):
            resident.pool.keep(salt, tokens, blocks)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with; by halves, since slices are compared quickly."""
    most = min(len(one), len(other))
    return bisect_left(range(most), True, key=lambda at: one[: at + 1] != other[: at + 1])


def _tally(account: Account, model: str) -> Tally:
    if model == POLICY:
        return account.policy
    if model == ROLLOUT:
        return account.rollout
    return account.critic.setdefault(model, Tally())

"""The requests under way: their searches decide here, and their listeners are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import structlog

from mcts_core.engine.jobs import Jobs
from mcts_core.engine.session import Job, Session
from mcts_core.query import Event, ProgressEvent, Reply, TokenEvent
from mcts_core.search.search import SearchFailed
from mcts_core.search.work import Announce, Outcome, Release, Work

_log = structlog.get_logger(__name__)
_PROGRESS_SECONDS = 0.1
"""Least time between two of a search's progress events."""

_ROUNDS = 64
"""Times that searches are asked for more work within a step, while their work needs no model."""


class Sessions:
    """Sessions in the order in which they began. A search's error is its own: its request fails,
    the others go on."""

    def __init__(self, jobs: Jobs, clock: Callable[[], float]) -> None:
        self._jobs = jobs
        self._clock = clock
        self._sessions: dict[Session, None] = {}
        self._begun = 0
        self._delivery: deque[tuple[Job, Outcome]] = deque()

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, session: Session) -> None:
        """Lets its search ask for its first work."""
        session.begun = self._clock()
        session.place, self._begun = self._begun, self._begun + 1
        self._sessions[session] = None
        self._guarded(session, session.search.start)

    def end(self, session: Session) -> None:
        """Whatever the path: nothing of the request is left behind."""
        if session.ended:
            return
        session.ended = True
        try:
            self._jobs.drop(session)
            session.release()
        finally:
            self._sessions.pop(session, None)  # last: the gauges call it running while it holds KV

    def expire(self, now: float) -> None:
        """Ends the searches whose deadlines have passed."""
        for session in self:
            if session.deadline is not None and now >= session.deadline:
                self._guarded(session, partial(self._settle, session))

    def _settle(self, session: Session) -> Sequence[Work]:
        """The deadline has passed: the search ends with what is there."""
        session.search.expire(self._jobs.unfinished(session))
        if session.search.result is None:
            raise RuntimeError("it did not settle at its deadline")
        return ()

    def deliver(self) -> bool:
        """Advances the jobs whose waits are over, and hands their outcomes to the searches. What
        these then ask for may be there at once, and they may ask again; who does so for ever lets
        the others have their step in between."""
        moved = False
        for _ in range(_ROUNDS):
            self._delivery.extend(self._jobs.advance())
            if not self._delivery:
                break
            moved = True
            for _ in range(len(self._delivery)):
                job, outcome = self._delivery.popleft()
                session = job.session
                session.jobs.pop(job, None)
                if not session.ended:
                    self._guarded(session, partial(session.search.deliver, job.work, outcome))
        return moved

    def _guarded(self, session: Session, call: Callable[[], Sequence[Work]]) -> None:
        """Lets a search decide. Its error is its own: the request fails, the others go on."""
        try:
            work = call()
            for piece in work:
                if isinstance(piece, Announce):  # of a step that settled the search, too
                    session.emit(TokenEvent(0, piece.text, piece.logprobs))
            if session.search.result is not None:
                self._finish(session)
                return
            for piece in work:
                if isinstance(piece, Release):
                    self._jobs.release(piece)
                elif not isinstance(piece, Announce):
                    self._jobs.submit(session, piece)
            if not session.jobs:
                raise RuntimeError("it waits for nothing and has no result")
        except Exception as error:
            _log.exception("search failed")
            self._fail(session, SearchFailed("internal", f"the search failed: {error}"))

    def _finish(self, session: Session) -> None:
        result = session.search.result
        assert result is not None
        if isinstance(result, SearchFailed):
            self._fail(session, result)
            return
        assert session.begun is not None
        account, ledger = session.account, session.ledger
        account.blocks_peak, account.shared_peak = ledger.peak, ledger.shared_at_peak
        session.events.append(
            Reply(
                result,
                account,
                queue_seconds=session.begun - session.submitted,
                search_seconds=self._clock() - session.begun,
            )
        )
        events, session.events = session.events, []
        try:
            self.end(session)
        finally:
            self.tell(session, events)

    def _fail(self, session: Session, failure: SearchFailed) -> None:
        if not session.ended:
            try:
                self.end(session)
            finally:
                self.tell(session, failure)

    def fail_all(self, message: str) -> bool:
        """Ends every request with an internal error; False if the KV of some could not be returned
        in good order."""
        clean = True
        for session in self:
            try:
                self._fail(session, SearchFailed("internal", message))
            except Exception:
                _log.exception("KV was not returned")
                clean = False
        return clean

    def send_events(self) -> None:
        """Tells listeners what is new; at the end of a step."""
        now = self._clock()
        for session in self:
            if now >= session.progress_due:
                self._note_progress(session, now)
            if session.events:
                events, session.events = session.events, []
                if not self.tell(session, events):
                    self.end(session)

    def _note_progress(self, session: Session, now: float) -> None:
        """Says how far a search is, if it went on since the last time."""
        progress = session.search.progress
        if progress.simulations == session.simulations_told or session.begun is None:
            return
        session.simulations_told = progress.simulations
        session.progress_due = now + _PROGRESS_SECONDS
        session.emit(
            ProgressEvent(
                progress.simulations,
                session.account.spent,
                progress.score,
                search_seconds=now - session.begun,
            )
        )

    def tell(self, session: Session, news: Sequence[Event] | SearchFailed) -> bool:
        """A listener's error is its own, too: False when there is nobody to be told any more."""
        try:
            session.listener(news)
        except Exception:
            _log.exception("listener failed")
            return False
        return True

"""Connections that send or read nothing, or not all of it: each has its time, and together they keep nobody out."""

import asyncio
import time
from enum import IntEnum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

CONNECTIONS_MAX = 512
"""The most connections that are open at a time. With `ACCEPTED_AT_ONCE`, and what requests open themselves, it stays
below 1024, the limit on open files that is common outside of containers."""

ACCEPTED_AT_ONCE = 64
"""The most connections that asyncio accepts before it lets us count them."""

HEAD_SECONDS = 10.0
"""How long the head of a request may take to arrive, from the connection or its own first byte on."""

BODY_SECONDS = 35.0
"""How long the rest of a request may take, also where nobody reads it any more. Longer than `Entrance` waits, which can
say what is wrong."""

READ_SECONDS = 30.0
"""How long a client may leave an answer unread that is larger than what the network holds."""


class Worth(IntEnum):
    """What a connection is worth where there are too many: those of the least go first."""

    HELD = 0
    """It never had an answer and owes a request, or it does not read its answer."""
    IDLE = 1
    """It had an answer, and asks nothing now."""
    SENDING = 2
    """It owes the rest of a request."""
    WAITING = 3
    """It waits for an answer, and will read it."""


class Connection(H11Protocol):
    """A connection of uvicorn's that is closed where the client owes something for too long.

    uvicorn itself has a limit on time for a connection that is idle between two requests alone (`timeout_keep_alive`),
    and one on the number of connections (`limit_concurrency`) by which silent ones would keep all others out.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._owing: object = None
        self._since = 0.0
        self._was_answered = False
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take note of a new connection; where there are too many, the one that is missed least goes."""
        super().connection_made(transport)
        self._since = time.monotonic()
        self._owe(h11.IDLE)
        there = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        others = [one for one in there if not one.transport.is_closing()]
        if len(others) >= CONNECTIONS_MAX:
            least = min(others, key=Connection.rank)
            (self if least.rank()[0] is Worth.WAITING else least).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take note of what arrived."""
        self._since = time.monotonic()
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Take note that a request was answered."""
        self._was_answered, self._since = True, time.monotonic()
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Take note that an answer is not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Take note that it is read on."""
        super().resume_writing()
        self._has_read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        super().connection_lost(exc)
        self._owe(None)
        self._has_read()

    def rank(self) -> tuple[Worth, float]:
        """What it is worth just now, and since when nothing has come or gone."""
        return self._worth(), self._since

    def _worth(self) -> Worth:
        cycle: RequestResponseCycle | None = self.cycle
        if self._unread is not None:
            return Worth.HELD
        if cycle is None or cycle.response_complete:
            return Worth.IDLE if self._was_answered else Worth.HELD
        return Worth.SENDING if self._owing is h11.SEND_BODY else Worth.WAITING

    def _look(self) -> None:
        state = self.conn.their_state
        is_in_head = state is h11.IDLE and bool(self.conn.trailing_data[0])
        self._owe(state if is_in_head or state is h11.SEND_BODY else None)

    def _owe(self, state: object) -> None:
        if state is self._owing:
            return
        self._owing = state
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if state is not None:
            seconds = BODY_SECONDS if state is h11.SEND_BODY else HEAD_SECONDS
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _has_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

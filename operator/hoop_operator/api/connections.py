"""Connections that send nothing, or not all of it: each has its time, and together they never keep others out."""

import asyncio
import time
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


class Connection(H11Protocol):
    """A connection of uvicorn's that is closed where the client owes something for too long.

    uvicorn itself has a limit on time for a connection that is idle between two requests alone (`timeout_keep_alive`),
    and one on the number of connections (`limit_concurrency`) by which silent ones would keep all others out.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._owing: object = None
        self._since = 0.0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take note of a new connection; where there are too many, the one that is missed least goes."""
        super().connection_made(transport)
        self._owe(h11.IDLE)
        if len(self.connections) > CONNECTIONS_MAX:
            there = [one for one in self.connections if isinstance(one, Connection)]
            still_open = [one for one in there if not one.transport.is_closing()]
            if len(still_open) > CONNECTIONS_MAX:
                min(still_open, key=Connection._worth).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take note of what arrived."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Take note that a request was answered."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        super().connection_lost(exc)
        self._owe(None)

    def _look(self) -> None:
        state = self.conn.their_state
        is_in_head = state is h11.IDLE and bool(self.conn.trailing_data[0])
        self._owe(state if is_in_head or state is h11.SEND_BODY else None)

    def _owe(self, state: object) -> None:
        if state is self._owing:
            return
        self._owing, self._since = state, time.monotonic()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if state is not None:
            seconds = BODY_SECONDS if state is h11.SEND_BODY else HEAD_SECONDS
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _worth(self) -> tuple[int, float]:
        """Who asks nothing, or owes a head, goes first, then who owes a body; of each, who has done so the longest."""
        cycle: RequestResponseCycle | None = self.cycle
        if self._owing is h11.IDLE or cycle is None or cycle.response_complete:
            return 0, self._since
        return (1 if self._owing is h11.SEND_BODY else 2), self._since

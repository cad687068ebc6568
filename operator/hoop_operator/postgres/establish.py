"""Connecting to a server that may make that as hard as it likes.

How often a SCRAM login hashes the password is for the server to say, up to two billion times; libpq does it in one
call of `PQconnectPoll`, which cannot be interrupted, and psycopg holds the interpreter's lock meanwhile. So each such
call is made in a thread of its own and without that lock. Who has waited too long for it leaves the thread to itself,
with the lowest priority that there is: it ends when libpq does, or with the process. Until then that user is not logged
in there again. It is a user of that server who decides about it, so the others go on: but each of their logins is tried
in a process first, which can be ended, so that there is one such thread and not one more at each attempt.
"""

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

LOWEST_PRIORITY = 19

STILL_COMPUTING = (
    "the server has had a login of ours compute for too long, and that goes on still; lower scram_iterations and set "
    "the admin's password anew"
)

LOGIN_SCRIPT = Path(__file__).with_name("login.py")

TOO_MUCH_TO_COMPUTE = "a SCRAM login that takes too long to compute"


class _Login(NamedTuple):
    """Who logs in, and where."""

    address: str
    port: str
    user: str


_left_alone: dict[threading.Thread, _Login] = {}
"""What the threads do that nobody waits for any more."""


def _poll_without_lock() -> Callable[[pq.abc.PGconn], int]:
    """`PQconnectPoll` of the libpq that psycopg uses, called with the interpreter's lock released."""
    if pq.__impl__ == "python":
        return lambda pgconn: pgconn.connect_poll()  # by ctypes, too
    # Looked up in psycopg's own extension, which finds it where that finds it: among the libraries it is linked with.
    library = ctypes.CDLL(importlib.import_module(pq.PGconn.__module__).__file__)
    poll = library.PQconnectPoll
    poll.argtypes, poll.restype = [ctypes.c_void_p], ctypes.c_int
    # psycopg documents the pointer for just this use, but leaves it out of its protocol class.
    return lambda pgconn: int(poll(pgconn.pgconn_ptr))  # type: ignore[attr-defined]


_poll = _poll_without_lock()


async def establish(parameters: Mapping[str, str]) -> psycopg.AsyncConnection[TupleRow]:
    """Connect to the first of a host's addresses that lets us in.

    Parameters
    ----------
    parameters
        libpq's; `host` and `hostaddr` may be lists, and `connect_timeout` holds for each address by itself.

    Raises
    ------
    psycopg.OperationalError
        None let us in; what each said.
    TimeoutError
        None said anything.
    """
    refusals: list[str] = []
    for host, address in zip(parameters["host"].split(","), parameters["hostaddr"].split(","), strict=True):
        login = _Login(address, parameters["port"], parameters["user"])
        if login in _left_alone.values():
            refusals.append(STILL_COMPUTING)
            continue
        single = {**parameters, "host": host, "hostaddr": address}
        try:
            async with asyncio.timeout(int(parameters["connect_timeout"])):
                if any(login[:2] == left[:2] for left in _left_alone.values()):
                    await try_login(single)
                return psycopg.AsyncConnection(await _connect(make_conninfo(**single), login))
        except TimeoutError:
            continue
        except psycopg.OperationalError as refusal:
            refusals.append(str(refusal))
    if not refusals:
        raise TimeoutError
    # In whatever order the name server gives the addresses, the message stays the same.
    raise psycopg.OperationalError("; ".join(sorted(set(refusals))))


async def try_login(parameters: Mapping[str, Any]) -> None:
    """Log in and out again as a role that may have made that as hard as it likes (see `login`).

    Raises
    ------
    psycopg.OperationalError
        The server, or the role, does not let us.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", LOGIN_SCRIPT, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        output, _ = await process.communicate(json.dumps(dict(parameters)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == -signal.SIGXCPU:
        raise psycopg.OperationalError(TOO_MUCH_TO_COMPUTE)
    if output or process.returncode:
        raise psycopg.OperationalError(output.decode(errors="replace") or "the login could not be tried")


async def _connect(conninfo: str, login: _Login) -> pq.abc.PGconn:
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    while pgconn.status != pq.ConnStatus.BAD:
        status = await _poll_in_thread(pgconn, login)
        if status == pq.PollingStatus.OK:
            pgconn.nonblocking = 1
            return pgconn
        if status == pq.PollingStatus.FAILED:
            break
        try:
            await _ready(pgconn.socket, for_reading=status == pq.PollingStatus.READING)
        except BaseException:
            pgconn.finish()
            raise
    refusal = pq.error_message(pgconn)
    pgconn.finish()
    raise psycopg.OperationalError(f"connection failed: {refusal}")


async def _ready(socket: int, *, for_reading: bool) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (
        (loop.add_reader, loop.remove_reader) if for_reading else (loop.add_writer, loop.remove_writer)
    )
    add(socket, end)
    try:
        await ready
    finally:
        remove(socket)


async def _poll_in_thread(pgconn: pq.abc.PGconn, login: _Login) -> int:
    """Call `PQconnectPoll`, however long that takes; nobody waits for its thread, not even the end of the process."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[int] = loop.create_future()
    over = False

    def end(status: int) -> None:
        nonlocal over
        over = True
        _left_alone.pop(thread, None)
        if not outcome.done():
            outcome.set_result(status)

    def work() -> None:
        status = _poll(pgconn)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, status)

    thread = threading.Thread(target=work, name="PQconnectPoll", daemon=True)
    thread.start()
    try:
        return await outcome
    except asyncio.CancelledError:
        if over:  # by the time that the cancellation arrived here
            raise
        _left_alone[thread] = login
        with contextlib.suppress(OSError):  # it has ended just now
            # On Linux this is about the one thread (setpriority(2), section "C library/kernel differences").
            os.setpriority(os.PRIO_PROCESS, thread.native_id or 0, LOWEST_PRIORITY)
        raise

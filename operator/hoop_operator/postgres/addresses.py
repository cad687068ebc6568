"""Where a server is, and whether anybody answers there, found out without any credentials."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from hoop_operator.errors import ServerUnreachable

RESOLVERS = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolve")
"""Threads of their own: a name server that does not answer holds one for long, and shall delay nobody else."""

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""Asks whether TLS is on offer, and is answered by one byte before anything is known of who asks (PostgreSQL manual,
section "Message Formats")."""


async def resolve(host: str, port: int, address_allowed: Callable[[str], bool]) -> list[str]:
    """The host's addresses, so that what was checked is what is connected to.

    Raises
    ------
    ServerUnreachable
        It has none, or none that is allowed.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(RESOLVERS, look_up)
    except OSError as error:
        raise ServerUnreachable(
            f'host "{host}" cannot be resolved ({error.strerror or error}); check HOST and the cluster\'s DNS'
        ) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if address_allowed(address)]
    if not allowed:
        raise ServerUnreachable(
            f'host "{host}" resolves to {", ".join(sorted(addresses))}, where the operator never connects to: '
            f"link-local addresses are refused; name the database server's own address"
        )
    return allowed


async def knock(host: str, port: int, seconds: float, address_allowed: Callable[[str], bool]) -> None:
    """See that a server answers, whatever it thinks of anybody's credentials.

    Raises
    ------
    ServerUnreachable
        Its name was not resolved, or nobody answered at any of its addresses within some seconds.
    """
    try:
        async with asyncio.timeout(seconds):
            addresses = await resolve(host, port, address_allowed)
    except TimeoutError as error:
        raise not_resolved(host, seconds) from error
    failures: set[str] = set()
    for address in addresses:
        try:
            async with asyncio.timeout(seconds / len(addresses)):
                if await _answers(address, port):
                    return
        except TimeoutError:
            continue
        except OSError as error:
            failures.add(os.strerror(error.errno) if error.errno else str(error))
        else:
            failures.add("the connection was closed without an answer")
    if failures:
        # In whatever order the name server gives the addresses, the message stays the same.
        raise ServerUnreachable(
            f"{host}:{port}: {'; '.join(sorted(failures))}; check host, port, network policies and whether the server "
            f"runs"
        )
    raise no_answer(host, port, seconds)


def not_resolved(host: str, seconds: float) -> ServerUnreachable:
    """The failure of a host whose name server keeps silent."""
    return ServerUnreachable(f'host "{host}" was not resolved within {seconds} s; check the cluster\'s DNS')


def no_answer(host: str, port: int, seconds: float) -> ServerUnreachable:
    """The failure of a server that keeps silent."""
    return ServerUnreachable(
        f"{host}:{port} did not answer within {seconds} s; check host, port, network policies and whether the server "
        f"runs"
    )


async def _answers(address: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(SSL_REQUEST)
        return bool(await reader.read(1))
    except ConnectionError:
        return False  # closed like any other, only that it was in a hurry
    finally:
        writer.transport.abort()

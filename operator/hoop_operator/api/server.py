"""The process of `hoop-operator serve`."""

import asyncio
import logging
import os
import signal
import socket
import sys

import uvicorn

from hoop_operator.api.app import application
from hoop_operator.api.connections import ACCEPTED_AT_ONCE, Connection
from hoop_operator.cluster.api import connect_without_credentials
from hoop_operator.errors import ClusterUnavailable
from hoop_operator.settings import Settings, unknown_variables

SHUTDOWN_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
"""Longer than what stands in front of it keeps idle connections, which else would meet one that is just closed."""

HEAD_BYTES_MAX = 32 * 1024
"""Room for a bearer token that names many groups."""

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> int:
    """Serve the API on all addresses until told to stop.

    Returns 0 then, and 1 where it cannot listen on its port or knows of no cluster, which it says on standard error.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listening = socket.create_server(("", settings.api_port), family=family, dualstack_ipv6=both)
    except OSError as error:
        sys.stderr.write(
            f"HOOP_API_PORT: port {settings.api_port} cannot be listened on: {error.strerror or error}\n"
        )
        return 1
    # uvicorn raises a signal that ended it once more; to have ended is all that it asks for.
    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, lambda *_: None)
    with listening:
        try:
            asyncio.run(_serve(settings, listening))
        except ClusterUnavailable as failure:
            sys.stderr.write(f"{failure}\n")
            return 1
    return 0


async def _serve(settings: Settings, listening: socket.socket) -> None:
    for name in sorted(unknown_variables(os.environ)):
        logger.warning("%s: there is no such setting; it is ignored", name)
    async with connect_without_credentials() as cluster:
        logger.info(
            "Serving namespace %s of %s on port %d; plans %s; %s",
            settings.api_namespace,
            cluster.host,
            settings.api_port,
            "are applied at once" if settings.api_plan_applies else "wait for apply",
            f"HOOP_AGENT_ID is {settings.agent_id}" if settings.agent_id else "no HOOP_AGENT_ID",
        )
        config = uvicorn.Config(
            application(settings, cluster),
            # On the strict parser, whichever else is installed, and no other protocol.
            http=Connection,
            backlog=ACCEPTED_AT_ONCE,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        await uvicorn.Server(config).serve(sockets=[listening])

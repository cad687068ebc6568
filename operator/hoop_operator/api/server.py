"""The process of `hoop-operator serve`."""

import uvicorn

from hoop_operator.api.app import application
from hoop_operator.settings import Settings

SHUTDOWN_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
"""Longer than what stands in front of it keeps idle connections, which else would meet one that is just closed."""


def serve(settings: Settings) -> int:
    """Serve the API on all addresses until told to stop; return 1 where it cannot, which is told in the log."""
    server = uvicorn.Server(
        uvicorn.Config(
            application(settings),
            host="0.0.0.0",  # noqa: S104 -- other Pods are who asks
            port=settings.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )
    server.run()
    return 0 if server.started else 1

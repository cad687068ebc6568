"""How others see how the process is: `/livez`, `/readyz` and `/metrics`.

They are served by a thread with an event loop of its own. So a probe is told that the operator's loop is stuck rather
than left without an answer, a scrape does not keep the operator waiting, and what kopf cancels when it ends, which is
every task of its loop, is none of this.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from hoop_operator.errors import HoopError
from hoop_operator.metrics import REGISTRY

BEAT_SECONDS = 1.0
STUCK_SECONDS = 20.0
"""The age of the last heartbeat from which on the event loop counts as stuck.

More than anything it does in one go takes, on the slowest of machines: what a restart cures is a loop that never comes
back.
"""

logger = logging.getLogger(__name__)


class PortUnavailable(HoopError):
    """The port of the HTTP server cannot be listened on."""


class Health:
    """Whether the process is alive and whether it is ready, as far as its event loop says so."""

    def __init__(self) -> None:
        self.ready = False
        """Whether the operator knows the cluster and serves it, or stands by to do so; never whether a customer's
        database answers."""
        self._last_beat = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the event loop has come round lately."""
        return time.monotonic() - self._last_beat < STUCK_SECONDS

    async def beat(self) -> None:
        """Give a sign of life every second, until cancelled."""
        while True:
            self._last_beat = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)


@asynccontextmanager
async def serve_health(port: int, health: Health) -> AsyncIterator[None]:
    """Serve `/livez`, `/readyz` and `/metrics` on all addresses of the machine while the body runs.

    Parameters
    ----------
    port
        Where; 0 serves nothing.
    health
        What is told. It lives by the event loop that this is called in.

    Raises
    ------
    PortUnavailable
        Somebody else listens there, or the process may not.
    """
    beating = asyncio.create_task(health.beat(), name="heartbeat")
    server = _Server(port, health) if port else None
    try:
        if server is not None:
            await asyncio.to_thread(server.start)
        yield
    finally:
        if server is not None:
            server.stop()
        beating.cancel()


class _Server:
    """The HTTP server and its thread."""

    def __init__(self, port: int, health: Health) -> None:
        self._port = port
        self._health = health
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        # A daemon, for it must never be what keeps a process from ending.
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            why = self._failure.strerror or self._failure
            raise PortUnavailable(f"HOOP_HTTP_PORT: port {self._port} cannot be listened on: {why}")

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(timeout=STUCK_SECONDS)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(_application(self._health), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, None, self._port).start()
            self._started.set()
            await self._ending.wait()
        except OSError as error:
            self._failure = error
        finally:
            await runner.cleanup()


def _application(health: Health) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        return _answer(
            health.alive, f"the event loop has been stuck for more than {STUCK_SECONDS:.0f} seconds"
        )

    async def readyz(_: web.Request) -> web.Response:
        return _answer(
            health.ready, "the objects of the cluster have not been listed yet, or the operator is ending"
        )

    application = web.Application()
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", _metrics)
    return application


async def _metrics(request: web.Request) -> web.Response:
    """The metrics in the format that is asked for.

    They are written aside, for with thousands of plans a probe would have to wait for them.
    """
    encode, content_type = _format(",".join(request.headers.getall("Accept", [])))
    response = web.Response(body=await asyncio.to_thread(encode, REGISTRY))
    response.headers["Content-Type"] = content_type
    response.enable_compression()
    return response


def _format(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """The first format of an Accept header that we write, with its media type; the plain text where there is none.

    prometheus_client's own choice fails at a version that is no number, and promises whatever version it is asked for.
    """
    for offered in accept.split(","):
        media_type, *parameters = map(str.strip, offered.split(";"))
        versions = {parameter for parameter in parameters if parameter.startswith("version=")}
        if media_type == "application/openmetrics-text" and versions <= {"version=1.0.0"}:
            return openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        if media_type == "text/plain":
            break
    return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def _answer(fine: bool, otherwise: str) -> web.Response:
    if fine:
        return web.Response(text="ok\n")
    return web.Response(status=web.HTTPServiceUnavailable.status_code, text=f"{otherwise}\n")

"""What a kubelet and a Prometheus are told over HTTP."""

import http.client
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import pytest

from hoop_operator import health as health_module
from hoop_operator.health import Health, PortUnavailable, serve_health
from integration.operator_process import free_port

pytestmark = pytest.mark.version_independent


class Probe:
    """A client that keeps the event loop from going on while it asks."""

    def __init__(self, port: int, health: Health) -> None:
        self.port = port
        self.health = health

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(connection):
            connection.request("GET", f"/{path}", headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    health, port = Health(), free_port()
    async with serve_health(port, health):
        yield Probe(port, health)


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline


async def test_an_event_loop_that_is_stuck_is_told_to_the_kubelet(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "STUCK_SECONDS", 0.5)
    until(lambda: probe.get("livez")[0] == 503, seconds=10)


async def test_it_is_ready_when_it_says_so_and_no_longer(probe: Probe) -> None:
    assert [probe.get(path)[0] for path in ("livez", "readyz")] == [200, 503]
    probe.health.ready = True
    assert probe.get("readyz")[0] == 200
    probe.health.ready = False
    assert probe.get("readyz")[0] == 503


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;q=0.5", "application/openmetrics-text; version=1.0.0"),
        (
            "application/openmetrics-text;version=0.0.1,application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=abc", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.x.0", "text/plain; version=0.0.4"),
        ('application/openmetrics-text;version="1.0.0"', "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=9.0.0", "text/plain; version=0.0.4"),
    ],
)
async def test_metrics_come_in_the_format_that_is_asked_for(
    probe: Probe, accept: str, media_type: str
) -> None:
    status, content_type, text = probe.get("metrics", accept)
    assert status == 200
    assert content_type.startswith(media_type)
    assert 'hoop_build_info{version="' in text
    assert text.endswith("# EOF\n") == media_type.startswith("application/openmetrics-text")


async def test_port_zero_serves_nothing() -> None:
    async with serve_health(0, health := Health()):
        assert health.alive


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=f"HOOP_HTTP_PORT: port {port} cannot be listened on"):
            async with serve_health(port, Health()):
                pass

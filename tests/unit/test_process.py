"""Whether there is an election, and for what; how the work of kopf ends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kopf
import pytest

from hoop_operator.handlers import process
from hoop_operator.handlers.process import introduction, lease_name, lease_namespace, until_all_ended
from hoop_operator.handlers.registry import Handlers
from hoop_operator.health import Health
from hoop_operator.settings import Settings

AGENT = "0b8a3f4e-6a39-4f4e-9f0e-0d1c2b3a4f5e"


@pytest.mark.parametrize(
    ("setting", "pod", "namespace"),
    [(None, None, None), (None, "own", "own"), ("other", "own", "other"), ("other", None, "other")],
)
def test_the_lease_is_in_the_pods_namespace_unless_another_is_set(
    tmp_path: Path, setting: str | None, pod: str | None, namespace: str | None
) -> None:
    file = tmp_path / "namespace"
    if pod is not None:
        file.write_text(pod)
    assert lease_namespace(Settings(lease_namespace=setting), file) == namespace


def test_operators_of_different_agent_ids_have_leases_of_their_own() -> None:
    assert lease_name(Settings()) == "hoop-operator"
    assert lease_name(Settings.model_validate({"agent_id": AGENT})) == f"hoop-operator-{AGENT}"


@pytest.mark.parametrize(
    ("settings", "election_in", "told"),
    [
        ({}, None, "without an agent id in all namespaces, without an election"),
        (
            {"agent_id": AGENT, "watch_namespaces": ["shop", "billing"]},
            "own",
            f"of agent {AGENT} in the namespaces shop, billing, standing for election by the lease "
            f"own/hoop-operator-{AGENT}",
        ),
    ],
)
def test_it_says_what_it_is_and_serves(settings: Any, election_in: str | None, told: str) -> None:
    assert introduction(Settings.model_validate(settings), election_in) == (
        f"hoop-operator {version('hoop-operator')} starts as instance default: it serves resources {told}"
    )


async def test_kopf_is_over_even_if_a_task_of_its_takes_a_cancellation_for_that_of_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.01)
    others = asyncio.all_tasks()

    async def root() -> None:
        raise ConnectionError("an answer that nobody understands")

    async def watch() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    watching = asyncio.create_task(watch(), name="watcher of plans")
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await until_all_ended([asyncio.create_task(root())], others)
    assert watching.cancelled()
    (line,) = [record for record in caplog.records if record.name == process.__name__]
    assert (line.levelno, line.getMessage().endswith(": watcher of plans")) == (logging.WARNING, True)


async def test_a_reconciler_ends_with_the_kopf_that_told_it_whatever_became_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[Handlers] = []
    end = SimpleNamespace(begun=asyncio.Event(), on_signals=lambda: None)

    async def spawn_tasks(**_: Any) -> list[asyncio.Task[None]]:
        return []

    async def fail(*_: Any) -> None:
        end.begun.set()
        raise ConnectionError("an answer that nobody understands")

    async def stop(handlers: Handlers) -> None:
        ended.append(handlers)

    @contextlib.asynccontextmanager
    async def served(*_: Any) -> AsyncIterator[tuple[Settings, asyncio.Event]]:
        yield Settings(), asyncio.Event()

    monkeypatch.setattr(kopf, "spawn_tasks", spawn_tasks)
    monkeypatch.setattr(process, "until_all_ended", fail)
    monkeypatch.setattr(process, "_served", served)
    monkeypatch.setattr(Handlers, "stop", stop)
    await process._run_kopf(Settings(), Health(), lambda: True, end)  # type: ignore[arg-type]
    assert len(ended) == 1


async def test_kopf_is_told_to_end_even_if_denied_namespaces_cannot_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(api: Any, namespaces: Iterable[str]) -> dict[str, str]:
        raise ValueError("an answer that nobody understands")

    monkeypatch.setattr(process, "DENIED_SECONDS", 0.01)
    monkeypatch.setattr(process, "denied_namespaces", fail)
    over, end = asyncio.Event(), SimpleNamespace(begun=asyncio.Event())
    api: Any = None
    async with asyncio.timeout(10):
        await process._until_over(api, {"gone": "forbidden"}, end, over)  # type: ignore[arg-type]
    assert over.is_set()
    assert "an answer that nobody understands" in caplog.text

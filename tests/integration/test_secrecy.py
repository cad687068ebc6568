"""No password is where it does not belong, and the operator keeps within its bounds and its rights."""

import asyncio
import base64
import contextlib
import json
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from integration.administrator import Administrator
from integration.operator_process import PROGRAM, OperatorProcess
from integration.proxy import Proxy
from integration.scrape import exposition
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready, roles_of
from local.postgresql import Server

FINALIZER = "hoop.dev/operator"
SETTINGS = {"HOOP_RETRY_SECONDS_MAX": "1", "HOOP_LOG_LEVEL": "DEBUG"}

MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]


@pytest.fixture
async def database(admin: Administrator) -> str:
    name = await admin.create_database()
    session = await admin.connect(name)
    await session.execute("CREATE TABLE orders (id int)")
    return name


async def objects_without_secrets(api: KubernetesApi, namespace: str) -> str:
    """All that is said of a namespace's objects, apart from its Secrets and the specs that people wrote."""
    listed = [
        await api.get(path)
        for path in (
            paths.hoop_resources(namespace),
            paths.hoop_role_plans(namespace),
            paths.events(namespace),
            paths.config_maps(namespace),
        )
    ]
    items = [item for found in listed for item in found["items"]]
    return json.dumps([{name: part for name, part in item.items() if name != "spec"} for item in items])


def shown_by_the_system(pid: int) -> str:
    """The command lines of all processes, and the environment of one."""
    files = [Path(f"/proc/{pid}/environ"), *Path("/proc").glob("[0-9]*/cmdline")]
    shown = []
    for file in files:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            shown.append(file.read_text(errors="replace"))
    return "\n".join(shown)


def spellings(password: str) -> set[str]:
    """A password as it is, and as a Secret holds it."""
    return {password, base64.b64encode(password.encode()).decode()}


async def test_no_password_is_anywhere_but_in_its_secret_over_a_whole_life(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    session = await admin.connect()
    await session.execute("ALTER SYSTEM SET log_min_error_statement = 'error'")
    await session.execute("SELECT pg_reload_conf()")
    login, password = f"admin_{secrets.token_hex(4)}", f"Adm1n-{secrets.token_hex(16)}"
    inline_password = f"Inl1ne-{secrets.token_hex(16)}"
    for name, value in ((login, password), (f"{login}_2", inline_password)):
        role = sql.Identifier(name)
        # What the server is told here would be in its log too: only a verifier may be sent.
        verifier = session.pgconn.encrypt_password(value.encode(), name.encode(), b"scram-sha-256").decode()
        await session.execute(
            sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(role, sql.Literal(verifier))
        )
    process = own_operator(SETTINGS)
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=login, password=password)
    inline = await tenant.resource(
        postgres,
        user="unused",
        password="unused",
        envVars={
            "envvar:HOST": _encoded(postgres.host),
            "envvar:PORT": _encoded(str(postgres.port)),
            "envvar:USER": _encoded(f"{login}_2"),
            "PASS": inline_password,
        },
        roles=[
            {
                "name": "shell",
                "type": "application",
                "subtype": "tcp",
                "secret": {"envvar:TOKEN": _encoded(f"t0ken-{inline_password}")},
            }
        ],
    )
    await process.start()
    passwords = {password, inline_password}

    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("inline", inline, scopes=[database], privileges=["SELECT"])
    plans = await tenant.until_plans(["ro", "inline"])
    role = plans["ro"]["status"]["role"]
    passwords |= {(await tenant.secret(name))["password"] for name in ("ro", "inline")}

    # A server that refuses a password: its log quotes the statement that failed.
    inside = await admin.connect(database)
    holder = await admin.connect(database)
    await holder.execute("BEGIN")
    await holder.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 7").format(sql.Identifier(role)))
    await tenant.annotate("ro", rotate_at="refused")
    await tenant.until_plan("ro", lambda plan: ready(plan)[0] == "ApplyFailed", "a refused rotation")
    await holder.execute("ROLLBACK")
    await tenant.until_plan(
        "ro", lambda plan: plan["status"].get("observedRotateAt") == "refused", "the rotation"
    )
    passwords.add((await tenant.secret("ro"))["password"])

    # Drift: somebody else changed the password and the grants, and edited the Secret.
    await session.execute(sql.SQL("ALTER ROLE {} PASSWORD NULL").format(sql.Identifier(role)))
    await inside.execute(sql.SQL("GRANT INSERT ON orders TO {}").format(sql.Identifier(role)))
    chosen = f"Ch0sen-{secrets.token_hex(12)}-ä"
    passwords.add(chosen)
    await api.merge_patch(paths.secret(namespace, "ro-credentials"), {"data": {"password": _encoded(chosen)}})

    async def taken_over() -> bool:
        return chosen in (await tenant.secret("ro")).get("pgpass", "")

    await eventually(taken_over, what="the edited password is taken over")

    async def repaired() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            await (await tenant.log_in("ro", postgres)).close()
            return extra_grant in await exposition(process.port)
        return False

    extra_grant = f'hoop_drift_total{{kind="grant_extra",name="ro",namespace="{namespace}"'
    await eventually(repaired, what="the password opens the server, and the drift is counted")
    said = await objects_without_secrets(api, namespace)
    metrics = await exposition(process.port)
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    metrics += await exposition(process.port)
    said += await objects_without_secrets(api, namespace)

    places = {
        "the server's log": postgres.log.read_text(errors="replace"),
        "the operator's log": process.said(),
        "objects and events": said,
        "the metrics": metrics,
        "process list and environment": shown_by_the_system(process.pid),
    }
    assert "DEBUG" in places["the operator's log"]
    assert role in places["the server's log"]
    assert extra_grant in metrics
    assert "RoleConflict" not in said
    for place, content in places.items():
        for secret in passwords:
            for spelling in spellings(secret):
                assert spelling not in content, place
    assert "t0ken-" not in places["the operator's log"]
    assert "SCRAM-SHA-256$" not in said + metrics + places["the operator's log"]


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


@pytest.mark.version_independent
async def test_kopf_leaves_no_trace_on_the_objects(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    process = own_operator({})
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await process.start()
    await tenant.until_plans(["ro"])
    await tenant.annotate("ro", reconcile_at="now")
    plan = (await tenant.until_plans(["ro"]))["ro"]
    for body in (plan, (await tenant.resources())[resource]):
        metadata = body["metadata"]
        assert metadata["finalizers"] == [FINALIZER]
        assert set(metadata.get("annotations", {})) <= {"hoop.dev/reconcile-at"}
        assert "kopf" not in json.dumps(body["status"]).lower()
        assert "kopf" not in json.dumps(metadata).lower()
    assert "Traceback" not in process.said()


@pytest.mark.version_independent
async def test_it_ends_within_ten_seconds_while_a_server_hangs(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    process = own_operator({})
    tenant = Tenant(api, namespace, process.agent_id)
    hangs = asyncio.Event()

    async def fall_silent_in_a_write(piece: bytes) -> None:
        if b"READ WRITE" in piece:
            proxy.silent = True
            hangs.set()

    proxy = Proxy(postgres.port, fall_silent_in_a_write)
    await proxy.open()
    try:
        resource = await tenant.resource(
            postgres, user=postgres.user, password=postgres.password, port=proxy.port
        )
        await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
        await process.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await hangs.wait()
        await eventually(process.alive, what="it is alive")
        assert await process.stop(10) == 0
        assert "Traceback" not in process.said()
        assert "never awaited" not in process.said()
        assert "was destroyed" not in process.said()
    finally:
        await proxy.close()
    assert not await roles_of(await admin.connect(), namespace, "ro")


@pytest.mark.version_independent
async def test_it_is_alive_and_ready_while_the_databases_are_down(
    own_operator: MakeOperator, api: KubernetesApi, namespace: str, postgres: Server
) -> None:
    process = own_operator({"HOOP_CONNECT_TIMEOUT_SECONDS": "2"})
    tenant = Tenant(api, namespace, process.agent_id)
    proxy = Proxy(postgres.port)
    await proxy.open()
    await proxy.close()
    await process.start()
    resource = await tenant.resource(postgres, user="nobody", password="none", port=proxy.port)
    await tenant.until_resource(resource, "ServerUnreachable")
    await eventually(process.alive, what="it is alive")
    await eventually(process.ready, what="it is ready")


@pytest.mark.version_independent
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOOP_HTTP_PORT", "http"),
        ("HOOP_WATCH_NAMESPACES", "shop"),
        ("HOOP_WATCH_NAMESPACES", "[1"),
        ("HOOP_ALLOWED_HOSTS", '["ok", ""]'),
        ("HOOP_AGENT_ID", "agent"),
        ("HOOP_INSTANCE", "Not A Label"),
        ("HOOP_CONNECTIONS_PER_SERVER", "0"),
        ("HOOP_LOG_LEVEL", "CHATTY"),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_nothing_starts(name: str, value: str) -> None:
    done = subprocess.run(  # noqa: S603 -- our own program
        [PROGRAM, "run"], env={name: value}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(name)
    assert "Traceback" not in done.stderr

"""What becomes of a HoopResource: its status, its events, its connection Secrets, and how it goes."""

import asyncio
import base64
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import AccessDenied, ObjectNotFound
from integration.administrator import Administrator
from integration.fake_postgres import (
    Behaviour,
    ask_for_cleartext,
    ask_for_endless_scram,
    fake_server,
    have_no_rows,
    never_answer,
    refuse,
)
from integration.namespaces import CLUSTER_WIDE
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.registrant import CONFIDENTIAL, Registrant, condition
from integration.tenant import Tenant, eventually, ready, roles_of
from local import cluster, postgresql
from local.postgresql import Server
from local.stack import Stack

PASSWORD = f"{CONFIDENTIAL}-Zr4"
PEM = "-----BEGIN {0}-----\nMIIB\n-----END {0}-----\n"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def env_of(server: Server, **changes: str) -> dict[str, str]:
    """The variables of a server's superuser."""
    return {
        "HOST": server.host,
        "PORT": str(server.port),
        "USER": server.user,
        "PASS": server.password,
        **changes,
    }


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    """A way to the server that counts how often it is taken."""
    proxy = Proxy(postgres.port)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def login(admin: Administrator) -> AsyncIterator[str]:
    """A role that may log in with `PASSWORD` and nothing else."""
    session = await admin.connect()
    name = f"admin_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    await session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, PASSWORD))
    yield name
    await session.execute(sql.SQL("DROP ROLE {}").format(role))


# What a registered resource says.


async def test_a_registered_resource_says_who_it_is_and_what_its_server_is(
    registrant: Registrant, postgres: Server
) -> None:
    await registrant.make_secret("admin", env_of(postgres))
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}}])
    status = await registrant.until("db", "Registered")
    body = await registrant.see("db")
    assert status["id"] == body["metadata"]["uid"]
    assert uuid.UUID(status["sid"]) != uuid.UUID(status["id"])
    assert (status["status"], status["message"]) == ("success", "")
    assert body["metadata"]["creationTimestamp"] <= status["createdAt"] <= status["updatedAt"]
    assert status["observedGeneration"] == body["metadata"]["generation"] == 1
    assert status["server"]["version"].partition(".")[0] == postgres.version
    assert int(status["server"]["systemIdentifier"]) > 0
    assert (status["server"]["isSuperuser"], status["server"]["canCreateRole"]) == (True, True)
    assert (status["connections"], status["plans"]) == ([], 0)
    said = {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
    assert said == {
        "Ready": ("True", "Registered"),
        "CredentialsResolved": ("True", "Resolved"),
        "Reachable": ("True", "Connected"),
    }
    assert {entry["observedGeneration"] for entry in status["conditions"]} == {1}
    assert await registrant.resource_events("db") == []


async def test_a_changed_spec_is_a_new_run_of_the_same_resource(
    registrant: Registrant, postgres: Server
) -> None:
    await registrant.register("db", envVars=env_of(postgres))
    first = await registrant.until("db", "Registered")
    await registrant.change_resource("db", advertise={"host": "pooler.example"})
    second = await registrant.until("db", "Registered")
    assert second["sid"] != first["sid"]
    assert second["observedGeneration"] == 2
    for unchanged in ("id", "createdAt", "server"):
        assert second[unchanged] == first[unchanged]
    assert datetime.fromisoformat(second["updatedAt"]) >= datetime.fromisoformat(first["updatedAt"])

    async def events() -> list[tuple[str, str, str]]:
        return [event for event in await registrant.resource_events("db") if event[0] == "Normal"]

    assert await eventually(events, what="it is told") == [
        ("Normal", "Registered", "the changed spec is in force")
    ]


async def test_a_condition_changes_its_time_with_its_status_only(
    registrant: Registrant, postgres: Server
) -> None:
    async def since() -> dict[str, str]:
        conditions = (await registrant.see("db"))["status"]["conditions"]
        return {entry["type"]: entry["lastTransitionTime"] for entry in conditions}

    await registrant.register("db", envVars=env_of(postgres))
    await registrant.until("db", "Registered")
    before = await since()

    async def later() -> bool:
        return datetime.now(UTC) - datetime.fromisoformat(before["Ready"]) > timedelta(seconds=1)

    await eventually(later, what="the next second")
    await registrant.change_resource("db", envVars={"PORT": "1"})
    await registrant.until("db", "ServerUnreachable", "refused")
    after = await since()
    assert after["Ready"] > before["Ready"]
    assert after["Reachable"] == after["Ready"]
    assert after["CredentialsResolved"] == before["CredentialsResolved"]


async def test_a_look_that_finds_nothing_new_writes_nothing(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    proxy: Proxy,
) -> None:
    operator = own_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "1", "HOOP_RETRY_SECONDS_MAX": "1"})
    await operator.start()
    registrant = Registrant(api, namespace, operator.agent_id)
    async with fake_server(refuse) as full:
        await registrant.register("good", envVars=env_of(postgres, PORT=str(proxy.port)))
        await registrant.register("bad", envVars=env_of(postgres, PORT=str(full.port)))
        await registrant.until("good", "Registered")
        await registrant.until("bad", "ServerUnreachable", "too many clients")
        before = await registrant.resources()
        looks, tries = proxy.accepted, len(full.clients)

        async def looked() -> bool:
            return proxy.accepted >= looks + 3 and len(full.clients) >= tries + 3

        await eventually(looked, what="three more looks at both")
        assert await registrant.resources() == before
        told = [reason for _, reason, _ in await registrant.resource_events("bad")]
        assert told.count("ServerUnreachable") == 1


# Credentials.


async def test_all_keys_that_lack_are_named_at_once(registrant: Registrant) -> None:
    await registrant.make_secret("admin", {"dbname": "app"})
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}}])
    status = await registrant.until("db", "CredentialsMissing")
    assert "missing or empty: HOST, USER, PASS; looked in spec.envVars, Secret admin" in status["message"]
    assert status["status"] == "failed"
    assert condition(status, "CredentialsResolved")[:2] == ("False", "CredentialsMissing")
    assert condition(status, "Reachable")[:2] == ("Unknown", "CredentialsMissing")


async def test_what_is_malformed_counts_before_what_is_unresolved_and_that_before_what_lacks(
    registrant: Registrant, postgres: Server
) -> None:
    admin = {"secretRef": {"name": "admin"}}
    await registrant.register(
        "db",
        envVars={"HOST": "127.0.0.1", "PORT": "none", "envvar:USER": "_aws:prod:user", "envvar:PASS": "?"},
        envVarsFrom=[admin, {"configMapRef": {"name": "place"}}],
        roles=[{"name": "ro", "secret": {"envvar:TOKEN": "?"}}],
    )
    invalid = await registrant.until("db", "CredentialsInvalid")
    for fault in (
        "PORT (PORT in spec.envVars)",
        'spec.envVars["envvar:PASS"]',
        "Secret admin does not exist",
        "ConfigMap place does not exist",
        'spec.envVars["envvar:USER"]',
        'spec.roles[ro].secret["envvar:TOKEN"]',
    ):
        assert fault in invalid["message"]
    assert "none" not in invalid["message"]

    await registrant.change_resource("db", envVars={"PORT": None, "envvar:PASS": None}, roles=[])
    unresolved = await registrant.until("db", "CredentialsUnresolved")
    assert "Secret admin does not exist" in unresolved["message"]
    assert "missing" not in unresolved["message"]

    await registrant.make_secret("admin", {"port": str(postgres.port)})
    await registrant.make_config_map("place", {"sslmode": "prefer"})
    await registrant.until("db", "CredentialsUnresolved", 'spec.envVars["envvar:USER"]')
    await registrant.change_resource("db", envVars={"envvar:USER": None})
    await registrant.until("db", "CredentialsMissing", "missing or empty: USER, PASS;")

    await registrant.change_secret("admin", user=postgres.user, password=postgres.password)
    await registrant.until("db", "Registered")


FOREIGN_SECRETS = {
    "CloudNativePG's superuser": {
        "username": "{user}",
        "user": "{user}",
        "password": "{password}",
        "dbname": "*",
        "host": "{host}",
        "port": "{port}",
        "pgpass": "{host}:{port}:*:{user}:{password}\n",
        "uri": "postgresql://{user}:{password}@{host}.elsewhere:{port}/*",
        "jdbc-uri": "jdbc:postgresql://{host}.elsewhere:{port}/*?password={password}&user={user}",
    },
    "CloudNativePG's app": {
        "username": "{user}",
        "user": "{user}",
        "password": "{password}",
        "dbname": "template1",
        "host": "{host}",
        "port": "{port}",
        "uri": "postgresql://{user}:{password}@{host}.elsewhere:{port}/template1",
    },
    "Crossplane's": {
        "endpoint": "{host}",
        "port": "{port}",
        "username": "{user}",
        "password": "{password}",
    },
    "Crossplane's with the port in the endpoint": {
        "endpoint": "{host}:{port}",
        "username": "{user}",
        "password": "{password}",
        "attribute.password": "{password}",
    },
    "a Service Binding": {
        "type": "postgresql",
        "provider": "bitnami",
        "host": "{host}",
        "port": "{port}",
        "username": "{user}",
        "password": "{password}",
        "database": "postgres",
        "uri": "postgresql://{user}:{password}@{host}:{port}/postgres",
    },
    "a uri alone": {
        "uri": "postgres://{user}:{password}@{host}:{port}/postgres?sslmode=prefer&connect_timeout=2"
    },
}


async def test_secrets_of_other_tools_work_as_they_are(registrant: Registrant, postgres: Server) -> None:
    values = {
        "host": postgres.host,
        "port": str(postgres.port),
        "user": postgres.user,
        "password": postgres.password,
    }
    names = {f"db-{index}": data for index, data in enumerate(FOREIGN_SECRETS.values())}
    for name, data in names.items():
        await registrant.make_secret(name, {key: text.format(**values) for key, text in data.items()})
        await registrant.register(name, envVarsFrom=[{"secretRef": {"name": name}}])
    for name in names:
        await registrant.until(name, "Registered")


async def test_a_config_map_and_a_secret_together_make_a_connection(
    registrant: Registrant, postgres: Server
) -> None:
    await registrant.make_config_map("place", {"HOST": postgres.host, "PORT": "1", "USER": "nobody"})
    await registrant.make_secret("login", {"username": postgres.user, "password": PASSWORD})
    await registrant.register(
        "db",
        envVars={"PORT": str(postgres.port), "envvar:PASS": b64(postgres.password)},
        envVarsFrom=[{"configMapRef": {"name": "place"}, "prefix": "PG"}, {"secretRef": {"name": "login"}}],
    )
    await registrant.until("db", "Registered")


async def test_a_prefix_makes_other_names_of_keys(registrant: Registrant, postgres: Server) -> None:
    await registrant.make_secret("admin", env_of(postgres))
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}, "prefix": "MAIN_"}])
    await registrant.until("db", "CredentialsMissing", "HOST, USER, PASS;")


@pytest.mark.parametrize("kind", ["secretRef", "configMapRef"])
async def test_a_change_of_what_a_resource_reads_wakes_it_at_once(
    registrant: Registrant, postgres: Server, kind: str
) -> None:
    values = {"username": postgres.user, "dbname": "postgres"}
    if kind == "secretRef":
        await registrant.make_secret("source", values)
    else:
        await registrant.make_config_map("source", values)
    env = env_of(postgres)
    del env["USER"]
    await registrant.register("db", envVars=env, envVarsFrom=[{kind: {"name": "source"}}])
    await registrant.until("db", "Registered")
    if kind == "secretRef":
        await registrant.change_secret("source", dbname="nowhere")
    else:
        path = paths.config_map(registrant.namespace, "source")
        await registrant.api.merge_patch(path, {"data": {"dbname": "nowhere"}})
    await registrant.until("db", "ServerUnreachable", 'database "nowhere" does not exist; check DB')


async def test_a_secret_that_appears_later_heals(registrant: Registrant, postgres: Server) -> None:
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "late"}}])
    status = await registrant.until("db", "CredentialsUnresolved")
    assert status["message"] == (
        f"spec.envVarsFrom: Secret late does not exist in namespace {registrant.namespace}; "
        "create it, or correct the name"
    )
    await registrant.make_secret("late", env_of(postgres))
    await registrant.until("db", "Registered")


async def test_a_password_in_the_spec_is_taken_with_a_warning(
    registrant: Registrant, postgres: Server
) -> None:
    await registrant.register("db", envVars=env_of(postgres))
    await registrant.until("db", "Registered")

    async def events() -> list[tuple[str, str, str]]:
        return await registrant.resource_events("db")

    ((kind, reason, note),) = await eventually(events, what="a warning")
    assert (kind, reason) == ("Warning", "PasswordInSpec")
    assert "envVarsFrom" in note


# Hosts, and what reaches the driver.


async def test_a_host_without_a_dot_is_a_service_of_the_namespace(registrant: Registrant) -> None:
    await registrant.register("db", envVars={"HOST": "db-rw", "USER": "u", "PASS": PASSWORD})
    await registrant.until("db", "ServerUnreachable", f'host "db-rw.{registrant.namespace}.svc"')


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("10.1.2.3", "HOOP_ALLOWED_HOSTS"),
        ("db.elsewhere.example", "HOOP_ALLOWED_HOSTS"),
        ("/tmp", "without a list, socket path"),  # noqa: S108 -- refused
        ("127.0.0.1,127.0.0.2", "without a list, socket path"),
    ],
)
async def test_a_host_that_may_not_be_named_is_invalid(
    registrant: Registrant, host: str, remedy: str
) -> None:
    await registrant.register("db", envVars={"HOST": host, "USER": "u", "PASS": PASSWORD})
    status = await registrant.until("db", "CredentialsInvalid", remedy)
    assert host not in status["message"]


async def test_a_uri_says_who_and_where_and_nothing_else(registrant: Registrant, postgres: Server) -> None:
    uri = f"postgresql://{postgres.user}:{PASSWORD}@{postgres.host}:{postgres.port}/postgres"
    parameters = {
        "service": "service=planted",
        "passfile": "passfile=/root/.pgpass",
        "sslkey": "sslkey=/etc/ssl/private.key",
        "options": "options=-c%20role%3Dpostgres",
        "host": "host=/tmp",
        "requireauth": "sslmode=prefer&require_auth=password",
    }
    for name, parameter in parameters.items():
        await registrant.register(name, envVars={"uri": f"{uri}?{parameter}"})
    await registrant.register("hosts", envVars={"uri": uri.replace("@", "@127.0.0.2,")})
    await registrant.register("socket", envVars={"uri": f"postgresql://u:{PASSWORD}@%2Ftmp/postgres"})
    for name in (*parameters, "hosts", "socket"):
        status = await registrant.until(name, "CredentialsInvalid", "uri in spec.envVars")
        assert "planted" not in status["message"]


async def test_nothing_but_the_resources_own_credentials_is_used(
    registrant: Registrant, planted_operator: OperatorProcess, postgres: Server
) -> None:
    assert "PGSERVICE" in planted_operator.environment
    # The password in the environment, in ~/.pgpass and in the service file is the right one.
    without_password = {
        "USER": postgres.user,
        "SSLCERT": PEM.format("CERTIFICATE"),
        "SSLKEY": PEM.format("PRIVATE KEY"),
    }
    await registrant.register(
        "certificate", envVars={"HOST": postgres.host, "PORT": str(postgres.port), **without_password}
    )
    await registrant.register("wrong", envVars=env_of(postgres, PASS=PASSWORD))
    await registrant.register("right", envVars=env_of(postgres))
    await registrant.until("certificate", "AuthenticationFailed", "no password supplied")
    await registrant.until("wrong", "AuthenticationFailed", "password authentication failed")
    await registrant.until("right", "Registered")


# Servers.


async def test_a_cleartext_password_is_not_sent(registrant: Registrant, postgres: Server) -> None:
    async with fake_server(ask_for_cleartext) as curious:
        await registrant.register("db", envVars=env_of(postgres, PORT=str(curious.port), PASS=PASSWORD))
        status = await registrant.until("db", "AuthenticationFailed", "cleartext")
        assert "verify-ca or verify-full" in status["message"]
        assert curious.clients
        assert all(client.received == b"" for client in curious.clients)


@pytest.mark.parametrize("behaviour", [never_answer, ask_for_endless_scram])
async def test_a_server_that_never_lets_us_in_is_unreachable_and_delays_nobody(
    behaviour: Behaviour, registrant: Registrant, postgres: Server
) -> None:
    async with fake_server(behaviour) as silent:
        await registrant.register("silent", envVars=env_of(postgres, PORT=str(silent.port)))
        await eventually(lambda: asyncio.sleep(0, result=bool(silent.clients)), what="the server is asked")
        await registrant.register("other", envVars=env_of(postgres))
        statuses = await asyncio.gather(
            registrant.until("other", "Registered"),
            # Not after that: the next try may find another word for it.
            registrant.until("silent", "ServerUnreachable", "did not answer within 5 s"),
        )
        assert condition(statuses[1], "Reachable")[:2] == ("False", "ServerUnreachable")


async def test_a_server_that_is_no_postgresql_fails_its_resource_only_as_long_as_it_is_there(
    registrant: Registrant, postgres: Server
) -> None:
    async with fake_server(have_no_rows) as odd:
        await registrant.register("db", envVars=env_of(postgres, PORT=str(odd.port)))
        await registrant.until("db", "ServerUnreachable", "does not answer as PostgreSQL does")
        tries = len(odd.clients)
        await eventually(lambda: asyncio.sleep(0, result=len(odd.clients) > tries), what="another try")
    await registrant.change_resource("db", envVars={"PORT": str(postgres.port)})
    await registrant.until("db", "Registered")


async def test_a_wrong_password_heals_with_the_secret_and_is_told_once(
    registrant: Registrant, postgres: Server, proxy: Proxy
) -> None:
    # As `echo` writes it.
    await registrant.make_secret("admin", env_of(postgres, PASS=f"{PASSWORD}\n", PORT=str(proxy.port)))
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}}])
    status = await registrant.until("db", "AuthenticationFailed", "check USER and PASS")
    assert "; PASS ends with a line break: write it without one" in status["message"]
    assert condition(status, "Reachable")[:2] == ("False", "AuthenticationFailed")
    tries = proxy.accepted
    await eventually(lambda: asyncio.sleep(0, result=proxy.accepted >= tries + 2), what="two more tries")
    await registrant.change_secret("admin", PASS=postgres.password)
    healed = await registrant.until("db", "Registered")
    assert healed["sid"] != status["sid"]
    assert healed["createdAt"] == status["createdAt"]

    async def events() -> bool:
        told = [event[:2] for event in await registrant.resource_events("db")]
        return told == [("Warning", "AuthenticationFailed"), ("Normal", "Registered")]

    await eventually(events, what="one warning and one recovery")


async def test_an_admin_that_may_not_create_roles_is_told_the_sql_that_heals_it(
    registrant: Registrant, postgres: Server, admin: Administrator, login: str
) -> None:
    await registrant.register("db", envVars=env_of(postgres, USER=login, PASS=PASSWORD))
    status = await registrant.until("db", "RoleCreationNotAllowed", login)
    assert (status["server"]["isSuperuser"], status["server"]["canCreateRole"]) == (False, False)
    assert condition(status, "Reachable")[0] == "True"
    statement = re.search(r"has to run: (.*;)", status["message"])
    assert statement
    await (await admin.connect()).execute(statement[1].encode())
    healed = await registrant.until("db", "Registered")
    assert (healed["server"]["isSuperuser"], healed["server"]["canCreateRole"]) == (False, True)


class Standby:
    """A server of its own that follows nobody, read-only until it is promoted."""

    def __init__(self, directory: Path, version: str) -> None:
        self._directory = directory
        directory.mkdir()
        self.server = postgresql.start(directory, version)
        postgresql.stop(directory, version)
        (postgresql._data(directory, version) / "standby.signal").touch(mode=0o644)
        postgresql._start(directory, version, postgresql.programs(version))

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a session as soon as the server takes any."""

        async def session() -> psycopg.AsyncConnection[Any] | None:
            server = self.server
            try:
                return await psycopg.AsyncConnection.connect(
                    host=server.host,
                    port=server.port,
                    user=server.user,
                    password=server.password,
                    dbname="postgres",
                )
            except psycopg.OperationalError:
                return None

        found = await eventually(session, what="the standby takes connections")
        assert found is not None
        return found

    def remove(self) -> None:
        """Stop the server and delete its data."""
        postgresql.stop(self._directory, self.server.version)
        postgresql.remove(self._directory, self.server.version)


@pytest.fixture
def standby(stack_directory: Path, postgres: Server) -> Any:
    standby = Standby(stack_directory / "standby", postgres.version)
    yield standby
    standby.remove()


async def test_a_standby_is_read_only_until_it_is_promoted_and_another_server_is_noticed(
    registrant: Registrant, postgres: Server, standby: Standby
) -> None:
    session = await standby.connect()
    await registrant.make_secret("admin", env_of(standby.server))
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}}])
    status = await registrant.until("db", "ServerUnreachable", "read-only")
    assert condition(status, "Reachable")[:2] == ("False", "ServerUnreachable")
    await registrant.plan("ro", "db", scopes=["postgres"], privileges=["SELECT"])
    waits = await registrant.until_plans(["ro"], "ResourceNotReady")
    assert "read-only" in ready(waits["ro"])[1]
    await session.execute("SELECT pg_promote()")
    await session.close()
    before = await registrant.until("db", "Registered")
    await registrant.until_plans(["ro"])

    await registrant.change_secret("admin", PORT=str(postgres.port), PASS=postgres.password)

    async def replaced() -> bool:
        after = (await registrant.see("db"))["status"]
        return bool(after["server"]["systemIdentifier"] != before["server"]["systemIdentifier"])

    await eventually(replaced, what="the other server is seen")
    after = await registrant.until("db", "Registered")
    old = f"1 role stays on the former server ({standby.server.host}:{standby.server.port})"
    holds, _, message = condition(after, "Reachable")
    assert holds == "True"
    assert old in message
    await registrant.annotate_resource("db", "now")

    async def warnings() -> list[str]:
        events = await registrant.resource_events("db")
        return [note for _, reason, note in events if reason == "ServerReplaced"]

    assert old in "".join(await eventually(warnings, what="a warning"))
    identifier = after["server"]["systemIdentifier"]
    await registrant.until_plan(
        "ro",
        lambda plan: (plan["status"].get("systemIdentifier"), ready(plan)[0]) == (identifier, "Applied"),
        "the plan is applied to the other server",
    )
    assert len(await warnings()) == 1
    await registrant.delete("ro")
    await registrant.until_gone("ro")


async def test_what_is_no_postgresql_is_registered_without_a_look_at_it(registrant: Registrant) -> None:
    async with fake_server(never_answer) as server:
        for name, kind, subtype in (
            ("mysql", "database", "mysql"),
            ("bastion", "application", "ssh"),
            ("own", "custom", "whatever"),
        ):
            await registrant.register(
                name,
                type=kind,
                subtype=subtype,
                envVars={"HOST": "127.0.0.1", "PORT": str(server.port), "PASS": PASSWORD},
                roles=[{"name": "dev", "secret": {"TOKEN": PASSWORD}}],
            )
        for name in ("mysql", "bastion", "own"):
            status = await registrant.until(name, "Registered")
            assert condition(status, "Reachable") == ("", "", "")
            assert "server" not in status
            assert status["connections"] == [{"name": "dev", "secretName": f"{name}-dev-connection"}]
        await registrant.register(
            "broken",
            subtype="mysql",
            envVars={"envvar:PASS": "?"},
            envVarsFrom=[{"secretRef": {"name": "none"}}],
        )
        await registrant.until("broken", "CredentialsInvalid", "Secret none does not exist")
        assert server.clients == []


# Connection Secrets.

PLAIN: dict[str, Any] = {"type": "custom", "subtype": "thing", "envVars": {"HOST": "127.0.0.1"}}
"""A resource that is registered as soon as its roles are."""


async def test_each_role_has_a_secret_of_its_own_variables(registrant: Registrant) -> None:
    secret = {
        "TOKEN": PASSWORD,
        "envvar:REGION": b64("eu"),
        "filesystem:KUBECONFIG": b64("a: b\n"),
        "filesystem:CA": b64("ca"),
    }
    await registrant.register(
        "db", **PLAIN, roles=[{"name": "ro", "secret": secret}, {"name": "rw", "secret": {"X": "1"}}]
    )
    status = await registrant.until("db", "Registered")
    assert status["connections"] == [
        {"name": "ro", "secretName": "db-ro-connection"},
        {"name": "rw", "secretName": "db-rw-connection"},
    ]
    found = await registrant.read_secret("db-ro-connection")
    assert found is not None
    assert found["data"] == {"TOKEN": PASSWORD, "REGION": "eu", "KUBECONFIG": "a: b\n", "CA": "ca"}
    assert found["metadata"]["annotations"]["hoop.dev/files"] == "CA,KUBECONFIG"
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("HoopResource", "db", True)
    other = await registrant.read_secret("db-rw-connection")
    assert other is not None
    assert "hoop.dev/files" not in other["metadata"]["annotations"]


async def test_a_role_takes_variables_from_secrets_and_config_maps_its_own_last(
    registrant: Registrant,
) -> None:
    sources = [
        {"secretRef": {"name": "tokens"}},
        {"configMapRef": {"name": "places"}, "prefix": "AT_"},
    ]
    role = {"name": "ro", "secret": {"OWN": "mine"}, "secretFrom": sources}
    await registrant.register("db", **PLAIN, roles=[role])
    status = await registrant.until("db", "CredentialsUnresolved")
    for absent in ("Secret tokens", "ConfigMap places"):
        assert f"spec.roles[ro].secretFrom: {absent} does not exist" in status["message"]
    await registrant.make_secret("tokens", {"TOKEN": PASSWORD, "OWN": "theirs"})
    await registrant.make_config_map("places", {"REGION": "eu"})
    await registrant.until("db", "Registered")

    async def holds(data: Mapping[str, str]) -> bool:
        found = await registrant.read_secret("db-ro-connection")
        return found is not None and found["data"] == data

    assert await holds({"TOKEN": PASSWORD, "OWN": "mine", "AT_REGION": "eu"})
    await registrant.change_secret("tokens", TOKEN="renewed")
    what = "a change at the source is handed on"
    await eventually(lambda: holds({"TOKEN": "renewed", "OWN": "mine", "AT_REGION": "eu"}), what=what)


async def test_what_no_secret_can_hold_is_told_with_its_role_and_keeps_no_other_back(
    registrant: Registrant,
) -> None:
    for number in range(2):
        await registrant.make_secret(f"big-{number}", {f"K{number}": PASSWORD * 40_000})
    await registrant.make_secret("long", {"k" * 250: PASSWORD})
    own = {"secretRef": {"name": "db-app-connection"}}
    roles = [
        {"name": "big", "secretFrom": [{"secretRef": {"name": f"big-{number}"}} for number in range(2)]},
        {"name": "long", "secretFrom": [{"secretRef": {"name": "long"}, "prefix": "PREFIX_OF_IT_"}]},
        {"name": "own", "secretFrom": [own]},
        {"name": "app", "secret": {"A": "1"}},
    ]
    await registrant.register("db", **PLAIN, roles=roles)
    status = await registrant.until("db", "CredentialsInvalid")
    for part in (
        f"spec.roles[big]: the values of secret and secretFrom come to {80_000 * len(PASSWORD)} bytes, and the role's "
        "Secret takes 1048576; name in secretFrom only what the role needs",
        "spec.roles[long].secretFrom: a key of a Secret has at most 253 characters, and with the prefix 1 have more, "
        'such as "PREFIX_OF_IT_kkk',
        "spec.roles[own].secretFrom: the operator itself writes Secret db-app-connection",
    ):
        assert part in status["message"]
    assert [entry["name"] for entry in status["connections"]] == ["app"]
    # What others add to it may be too much as well.
    for key in ("added", "more"):
        await registrant.change_secret("db-app-connection", **{key: "x" * 500_000})
    await registrant.change_resource("db", roles=[{"name": "app", "secret": {"A": "1" * 60_000}}])
    await registrant.until("db", "SecretConflict", "does not take what belongs into Secret db-app-connection")
    await registrant.api.delete(paths.secret(registrant.namespace, "db-app-connection"))
    await registrant.until("db", "Registered")


async def test_a_connection_secret_comes_back_changes_and_goes_with_its_role(registrant: Registrant) -> None:
    async def holds(name: str, data: Mapping[str, str] | None) -> bool:
        found = await registrant.read_secret(name)
        return (found and found["data"]) == data

    roles = [{"name": "ro", "secret": {"A": "1", "B": "2"}}, {"name": "rw", "secret": {"X": "1"}}]
    await registrant.register("db", **PLAIN, roles=roles)
    await registrant.until("db", "Registered")
    await registrant.api.delete(paths.secret(registrant.namespace, "db-rw-connection"))
    await eventually(lambda: holds("db-rw-connection", {"X": "1"}), what="the Secret is back")
    await registrant.change_secret("db-ro-connection", A="edited", added="by hand")
    await eventually(
        lambda: holds("db-ro-connection", {"A": "1", "B": "2", "added": "by hand"}),
        what="the edit is undone, what was added stays",
    )
    await registrant.change_resource("db", roles=[{"name": "ro", "secret": {"A": "2"}}])
    status = await registrant.until("db", "Registered")
    assert [entry["name"] for entry in status["connections"]] == ["ro"]
    assert await holds("db-ro-connection", {"A": "2", "added": "by hand"})
    assert await holds("db-rw-connection", None)
    assert await registrant.resource_events("db") == [
        ("Normal", "SecretsWritten", note)
        for note in (
            "Secret db-rw-connection was made",
            "Secret db-ro-connection was changed",
            "Secret db-ro-connection was changed; Secret db-rw-connection was deleted",
        )
    ]


async def test_a_secret_goes_with_its_role_also_while_the_server_is_away(registrant: Registrant) -> None:
    away = {"HOST": "127.0.0.1", "PORT": "1", "USER": "u", "PASS": PASSWORD}
    await registrant.register("db", envVars=away, roles=[{"name": "ro", "secret": {"A": "1"}}])
    status = await registrant.until("db", "ServerUnreachable", "refused")
    assert status["connections"] == [{"name": "ro", "secretName": "db-ro-connection"}]
    assert await registrant.read_secret("db-ro-connection") is not None
    await registrant.change_resource("db", roles=[])
    status = await registrant.until("db", "ServerUnreachable")
    assert status["connections"] == []
    assert await registrant.read_secret("db-ro-connection") is None


@pytest.mark.parametrize(
    "controller",
    [
        None,
        {
            "apiVersion": "example.com/v1",
            "kind": "HoopResource",
            "name": "db",
            "uid": "x",
            "controller": True,
        },
    ],
    ids=["nobody's", "another kind's of the same name"],
)
async def test_somebody_elses_secret_is_a_conflict_and_stays(
    registrant: Registrant, postgres: Server, controller: Mapping[str, Any] | None
) -> None:
    await registrant.make_secret("db-ro-connection", {"theirs": PASSWORD})
    if controller is not None:
        body = {"metadata": {"ownerReferences": [controller]}}
        await registrant.api.merge_patch(paths.secret(registrant.namespace, "db-ro-connection"), body)
    before = await registrant.read_secret("db-ro-connection")
    roles = [{"name": "ro", "secret": {"A": "1"}}, {"name": "rw", "secret": {"A": "1"}}]
    await registrant.register("db", envVars=env_of(postgres), roles=roles)
    status = await registrant.until("db", "SecretConflict", "Secret db-ro-connection exists already")
    assert "rename the role in spec.roles, or delete that Secret" in status["message"]
    assert condition(status, "Reachable")[:2] == ("Unknown", "SecretConflict")
    assert condition(status, "CredentialsResolved")[0] == "True"
    assert [entry["name"] for entry in status["connections"]] == ["rw"]
    assert await registrant.read_secret("db-ro-connection") == before
    await registrant.api.delete(paths.secret(registrant.namespace, "db-ro-connection"))
    await registrant.until("db", "Registered")


async def test_two_resources_whose_secrets_would_have_one_name_are_in_conflict(
    registrant: Registrant,
) -> None:
    await registrant.register("a-b", **PLAIN, roles=[{"name": "c", "secret": {"A": "first"}}])
    await registrant.until("a-b", "Registered")
    await registrant.register("a", **PLAIN, roles=[{"name": "b-c", "secret": {"A": "second"}}])
    await registrant.until(
        "a", "SecretConflict", "Secret a-b-c-connection exists already and belongs to HoopResource a-b"
    )
    found = await registrant.read_secret("a-b-c-connection")
    assert found is not None
    assert found["data"] == {"A": "first"}
    await registrant.delete_resource("a-b")
    await registrant.until("a", "Registered")


async def test_a_secret_that_a_quota_forbids_is_told_and_keeps_no_other_back(
    registrant: Registrant, api: KubernetesApi
) -> None:
    quotas = f"/api/v1/namespaces/{registrant.namespace}/resourcequotas"
    few = {"count/secrets": "1"}

    async def in_force() -> bool:
        try:
            await registrant.make_secret("another", {})
        except AccessDenied:
            return True
        await api.delete(paths.secret(registrant.namespace, "another"))
        return False

    await registrant.register("db", **PLAIN, roles=[{"name": "rw", "secret": {"A": "1"}}])
    await registrant.until("db", "Registered")
    await api.create(quotas, {"metadata": {"name": "few"}, "spec": {"hard": few}})
    await api.merge_patch(paths.status(f"{quotas}/few"), {"status": {"hard": few, "used": few}})
    await eventually(in_force, what="the quota is in force")
    roles = [{"name": "ro", "secret": {"A": PASSWORD}}, {"name": "rw", "secret": {"A": "2"}}]
    await registrant.change_resource("db", roles=roles)
    status = await registrant.until("db", "SecretConflict", "Secret db-ro-connection")
    assert "exceeded quota: few, requested: count/secrets=1" in status["message"]
    assert status["connections"] == [{"name": "rw", "secretName": "db-rw-connection"}]
    written = await registrant.read_secret("db-rw-connection")
    assert written is not None
    assert written["data"] == {"A": "2"}
    await api.delete(f"{quotas}/few")
    await registrant.until("db", "Registered")


# Deletion and whose a resource is.


async def test_deletion_waits_for_the_plans_that_use_the_resource(
    registrant: Registrant,
    api: KubernetesApi,
    new_namespace: Callable[[], str],
    postgres: Server,
    admin: Administrator,
) -> None:
    database = await admin.create_database()
    far = Tenant(api, new_namespace(), registrant.agent_id)
    await registrant.register("db", envVars=env_of(postgres), allowedNamespaces={"from": "All"})
    await registrant.until("db", "Registered")
    grant: dict[str, Any] = {"scopes": [database], "privileges": ["SELECT"]}
    for name in ("one", "two"):
        await registrant.plan(name, "db", **grant)
    reference = {"name": "db", "namespace": registrant.namespace}
    await far.plan("three", "db", resourceRef=reference, role=f"far{secrets.token_hex(3)}", **grant)
    await registrant.until_plans(["one", "two"])
    await far.until_plans(["three"])

    async def counted() -> bool:
        return bool((await registrant.see("db"))["status"]["plans"] == 3)

    await eventually(counted, what="three plans are counted")
    await registrant.delete_resource("db")
    status = await registrant.until("db", "InUse", "HoopRolePlans one, two and 1 in other namespaces")
    assert "three" not in str(status)
    assert condition(status, "InUse")[:2] == ("True", "InUse")
    assert condition(status, "Ready")[0] == "False"
    await registrant.delete("one")
    await registrant.until("db", "InUse", "waits for HoopRolePlans two and 1 in other namespaces")
    await far.delete("three")
    await registrant.until("db", "InUse", "waits for HoopRolePlans two,")
    warnings = [reason for _, reason, _ in await registrant.resource_events("db") if reason == "InUse"]
    assert warnings == ["InUse"]
    await registrant.delete("two")
    await registrant.until_resource_gone("db")
    assert await registrant.plans() == {}


async def test_a_resource_that_no_plan_uses_goes_at_once_even_without_credentials(
    registrant: Registrant,
) -> None:
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "none"}}])
    await registrant.until("db", "CredentialsUnresolved")
    await registrant.plan("refused", "db", scopes=["postgres"], privileges=["SELECT"])
    await registrant.until_plans(["refused"], "ResourceNotReady")
    await registrant.delete_resource("db")
    await registrant.until_resource_gone("db")


@CLUSTER_WIDE
async def test_a_namespace_that_is_deleted_takes_resource_plan_and_role_with_it(
    registrant: Registrant, api: KubernetesApi, stack: Stack, postgres: Server, admin: Administrator
) -> None:
    name = f"{registrant.namespace}-short"
    cluster.kubectl(stack.kubeconfig, "create", "namespace", name)
    tenant = Registrant(api, name, registrant.agent_id)
    await tenant.register("db", envVars=env_of(postgres), roles=[{"name": "ro", "secret": {"A": "1"}}])
    await tenant.plan(
        "ro", "db", role=f"short{secrets.token_hex(3)}", scopes=["postgres"], privileges=["SELECT"]
    )
    await tenant.until_plans(["ro"])
    session = await admin.connect()
    assert await roles_of(session, name, "ro")
    cluster.kubectl(stack.kubeconfig, "delete", "namespace", name, "--wait=false")

    async def gone() -> bool:
        try:
            await api.get(paths.namespace(name))
        except ObjectNotFound:
            return True
        return False

    await eventually(gone, what="the namespace is gone")
    assert await roles_of(session, name, "ro") == []


async def test_a_resource_of_another_instance_is_left_alone(registrant: Registrant, postgres: Server) -> None:
    await registrant.register("theirs", envVars=env_of(postgres), agentId=str(uuid.uuid4()))
    before = await registrant.see("theirs")
    await registrant.register("ours", envVars=env_of(postgres))
    await registrant.until("ours", "Registered")
    assert await registrant.see("theirs") == before
    assert await registrant.resource_events("theirs") == []


async def test_an_agent_id_is_the_same_in_capital_letters(registrant: Registrant, postgres: Server) -> None:
    assert registrant.agent_id
    await registrant.register("db", envVars=env_of(postgres), agentId=registrant.agent_id.upper())
    await registrant.until("db", "Registered")

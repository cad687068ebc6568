"""The password of a plan's role: where it is, who may change it, and that Secret and server agree about it."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.server_log import logged, looks
from integration.tenant import PATIENCE_SECONDS, Tenant, eventually, ready
from local.postgresql import Server

NO_DRIFT = {"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "2"}
ANOTHER = "another password"

Operators = Callable[[Mapping[str, str]], OperatorProcess]


@pytest.fixture
async def role(tenant: Tenant, database: str, resource: str) -> str:
    """The role of the plan `ro`, which is Ready."""
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    return role_name(resource, "ro")


async def can_log_in(server: Server, role: str, password: str) -> bool:
    try:
        session = await psycopg.AsyncConnection.connect(
            host=server.host, port=server.port, user=role, password=password, dbname="postgres"
        )
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    await session.close()
    return True


async def change_on_server(admin: Administrator, role: str, password: str) -> None:
    session = await admin.connect()
    await session.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
    )


async def password_of(tenant: Tenant, plan: str) -> str:
    return (await tenant.secret(plan)).get("password", "")


async def until_agreed(tenant: Tenant, server: Server, role: str, *, unlike: str = "") -> str:
    """Wait until the Secret's password, another one than `unlike`, opens the server; return it."""

    async def agreed() -> str:
        password = await password_of(tenant, "ro")
        works = password not in {"", unlike} and await can_log_in(server, role, password)
        return password if works else ""

    return await eventually(agreed, what="Secret and server agree")


@pytest.mark.parametrize("password", ["plain-and-simple", "Grüße, 世界: 'quoted' \\ and @spaced"])
async def test_a_password_edited_in_the_secret_is_taken_over_by_the_server_and_all_keys(
    tenant: Tenant, postgres: Server, role: str, password: str
) -> None:
    await tenant.change_secret("ro-credentials", password=password)

    async def taken() -> bool:
        return await can_log_in(postgres, role, password)

    await eventually(taken, what="the edited password opens the server")

    async def spread() -> str:
        secret = await tenant.secret("ro")
        assert secret["password"] == password
        return secret["uri"] if "plain" in password or "%40spaced" in secret["uri"] else ""

    uri = await eventually(spread, what="the edited password is in the uri")
    async with await psycopg.AsyncConnection.connect(uri):
        pass


async def test_an_empty_password_is_replaced_by_a_fresh_one(
    tenant: Tenant, postgres: Server, role: str
) -> None:
    before = await password_of(tenant, "ro")
    await tenant.change_secret("ro-credentials", password="")
    after = await until_agreed(tenant, postgres, role, unlike=before)
    assert len(after) >= 32
    assert not await can_log_in(postgres, role, before)


async def test_a_deleted_secret_comes_back_with_a_fresh_password_that_works(
    tenant: Tenant, api: KubernetesApi, postgres: Server, role: str
) -> None:
    before = await password_of(tenant, "ro")
    await api.delete(paths.secret(tenant.namespace, "ro-credentials"))
    await until_agreed(tenant, postgres, role, unlike=before)


async def test_a_deleted_secret_comes_back_also_while_the_plans_statements_fail(
    tenant: Tenant, api: KubernetesApi, postgres: Server, admin: Administrator, database: str, role: str
) -> None:
    before = await password_of(tenant, "ro")
    locker = await admin.connect(database)
    await locker.execute("BEGIN")
    await locker.execute("GRANT SELECT ON orders TO pg_monitor")
    await tenant.change("ro", privileges=["SELECT", "INSERT"], rotatePassword=True)
    await tenant.until_plans(["ro"], "ApplyFailed")
    kept = await password_of(tenant, "ro")
    await api.delete(paths.secret(tenant.namespace, "ro-credentials"))
    await until_agreed(tenant, postgres, role, unlike=before)
    reason, _ = ready((await tenant.plans())["ro"])
    assert (kept, reason) == (before, "ApplyFailed")
    await locker.execute("ROLLBACK")
    await tenant.until_plans(["ro"])


async def test_keys_and_labels_added_by_hand_stay_and_our_own_are_put_right(
    tenant: Tenant, api: KubernetesApi, postgres: Server, role: str
) -> None:
    before = await tenant.secret("ro")
    path = paths.secret(tenant.namespace, "ro-credentials")
    await api.merge_patch(path, {"metadata": {"labels": {"mine": "yes"}}})
    await tenant.change_secret("ro-credentials", mine="yes", host="elsewhere", uri=None)

    async def repaired() -> bool:
        return await tenant.secret("ro") == before | {"mine": "yes"}

    await eventually(repaired, what="our keys are as they were")
    assert (await api.get(path))["metadata"]["labels"]["mine"] == "yes"


async def test_a_password_changed_on_the_server_is_set_back_with_an_event_that_does_not_show_it(
    tenant: Tenant, admin: Administrator, postgres: Server, role: str
) -> None:
    before = await password_of(tenant, "ro")
    await change_on_server(admin, role, ANOTHER)
    assert await until_agreed(tenant, postgres, role) == before
    assert not await can_log_in(postgres, role, ANOTHER)

    async def told() -> bool:
        return bool(await tenant.events("ro"))

    await eventually(told, what="an event")
    ((kind, _, note),) = await tenant.events("ro")
    assert kind == "Normal"
    assert "changed on the server and was set back" in note
    assert before not in note


async def test_an_admin_that_reads_no_verifiers_is_told_to_look_and_finds_a_password_changed_on_the_server(
    tenant: Tenant, admin: Administrator, postgres: Server
) -> None:
    name = f"limited_{secrets.token_hex(4)}"
    session = await admin.connect()
    await session.execute(
        f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'limited'; CREATE ROLE {name}_readers;"
        f"GRANT {name}_readers TO {name} WITH ADMIN OPTION".encode()
    )
    try:
        resource = await tenant.resource(postgres, user=name, password="limited")
        await tenant.plan("ro", resource, type="external", sourceRole=f"{name}_readers")
        await tenant.until_plans(["ro"])
        before, role = await password_of(tenant, "ro"), role_name(resource, "ro")
        await change_on_server(admin, role, ANOTHER)
        await tenant.annotate("ro", reconcile_at="now")
        await tenant.until_plans(["ro"])
        assert await until_agreed(tenant, postgres, role) == before
        await tenant.delete("ro")
        await tenant.until_gone("ro")
    finally:
        await session.execute(f"DROP ROLE {name}_readers; DROP ROLE {name}".encode())


async def test_a_role_dropped_by_hand_is_made_again_with_the_password_of_its_secret(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str, role: str
) -> None:
    before = await password_of(tenant, "ro")
    session = await admin.connect(database)
    name = sql.Identifier(role)
    # Between two looks and all at once: one that met half of it would grant again, and the role could not be dropped.
    await looks(postgres, database)
    await session.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))
    assert await until_agreed(tenant, postgres, role) == before


async def test_rotate_password_rotates_once_for_each_generation_that_has_it_and_not_at_the_beginning(
    tenant: Tenant, postgres: Server, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], rotatePassword=True)
    first = (await tenant.until_plans(["ro"]))["ro"]["status"]
    assert first["rotatedGeneration"] == 1
    passwords = [await password_of(tenant, "ro")]
    await tenant.annotate("ro", reconcile_at="1")
    await tenant.until_plans(["ro"])
    assert await password_of(tenant, "ro") == passwords[0]
    await tenant.change("ro", privileges=["SELECT", "INSERT"])
    second = (await tenant.until_plans(["ro"]))["ro"]["status"]
    passwords.append(await password_of(tenant, "ro"))
    assert second["rotatedGeneration"] == 2
    assert second["lastRotationTime"] >= first["lastRotationTime"]
    await tenant.change("ro", rotatePassword=False)
    await tenant.until_plans(["ro"])
    assert await password_of(tenant, "ro") == passwords[1] != passwords[0]
    role = role_name(resource, "ro")
    assert [await can_log_in(postgres, role, password) for password in passwords] == [False, True]


async def test_rotate_at_rotates_once_for_each_value(tenant: Tenant, postgres: Server, role: str) -> None:
    passwords = [await password_of(tenant, "ro")]
    for value in ("monday", "tuesday"):
        await tenant.annotate("ro", rotate_at=value, reconcile_at=value)
        plan = (await tenant.until_plans(["ro"]))["ro"]
        assert plan["status"]["observedRotateAt"] == value
        passwords.append(await password_of(tenant, "ro"))
    assert len(set(passwords)) == 3
    await tenant.annotate("ro", reconcile_at="wednesday")
    await tenant.until_plans(["ro"])
    assert await password_of(tenant, "ro") == passwords[-1]
    assert [await can_log_in(postgres, role, password) for password in passwords] == [False, False, True]


async def test_a_rotation_that_could_not_be_made_is_reported_once_and_made_once_after_healing(
    tenant: Tenant, admin: Administrator, postgres: Server, database: str, role: str
) -> None:
    before = await password_of(tenant, "ro")
    later = f"{database}_later"
    await tenant.change("ro", scopes=[database, later])
    failed = (await tenant.until_plans(["ro"], "DatabaseNotFound"))["ro"]
    await tenant.annotate("ro", rotate_at="now")

    def answered(plan: Mapping[str, Any]) -> bool:
        return bool(plan["status"]["sid"] != failed["status"]["sid"])

    asked = await tenant.until_plan("ro", answered, "the annotation is answered")
    assert "observedRotateAt" not in asked["status"]

    await looks(postgres, database, 3)
    assert (await tenant.plans())["ro"]["metadata"]["resourceVersion"] == asked["metadata"]["resourceVersion"]
    assert await password_of(tenant, "ro") == before
    await admin.create_database(later)
    healed = (await tenant.until_plans(["ro"]))["ro"]
    assert healed["status"]["observedRotateAt"] == "now"
    after = await password_of(tenant, "ro")
    assert after != before
    await tenant.annotate("ro", reconcile_at="again")
    await tenant.until_plans(["ro"])
    assert await password_of(tenant, "ro") == after
    assert await can_log_in(postgres, role, after)


async def test_a_secret_that_was_made_immutable_keeps_its_password_until_it_is_deleted(
    tenant: Tenant, api: KubernetesApi, postgres: Server, role: str
) -> None:
    before = await password_of(tenant, "ro")
    path = paths.secret(tenant.namespace, "ro-credentials")
    await api.merge_patch(path, {"immutable": True})
    await tenant.annotate("ro", rotate_at="now")
    plan = await tenant.until_plan(
        "ro", lambda plan: ready(plan)[0] == "SecretConflict", "the rotation cannot be made"
    )
    assert ready(plan)[1] == (
        "the API server does not take what belongs into Secret ro-credentials: it was made immutable, or others added "
        "too much to it; delete it, and it is made anew with another password"
    )
    assert await until_agreed(tenant, postgres, role) == before
    await api.delete(path)
    await until_agreed(tenant, postgres, role, unlike=before)
    await tenant.until_plans(["ro"])


async def test_a_plan_that_fails_keeps_its_secret_and_its_password_together_all_the_same(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, postgres: Server, database: str, role: str
) -> None:
    await tenant.change("ro", scopes=[database, f"{database}_missing"])
    await tenant.until_plans(["ro"], "DatabaseNotFound")
    before = await password_of(tenant, "ro")
    await change_on_server(admin, role, ANOTHER)
    assert await until_agreed(tenant, postgres, role) == before
    await api.delete(paths.secret(tenant.namespace, "ro-credentials"))
    await until_agreed(tenant, postgres, role, unlike=before)
    await tenant.until_plans(["ro"], "DatabaseNotFound")


async def test_a_restart_of_the_operator_repeats_nothing_and_writes_nothing(
    api: KubernetesApi,
    namespace: str,
    own_operator: Operators,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator(NO_DRIFT)
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    asked = {"hoop.dev/rotate-at": "1", "hoop.dev/reconcile-at": "1"}
    await tenant.plan(
        "ro", resource, scopes=[database], privileges=["SELECT"], rotatePassword=True, annotations=asked
    )
    await tenant.plan("broken", resource, scopes=[f"{database}_missing"], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await tenant.until_plans(["broken"], "DatabaseNotFound")

    async def versions() -> list[str]:
        found = [(await tenant.plans())["ro"], (await tenant.resources())[resource]]
        found.append(await api.get(paths.secret(namespace, "ro-credentials")))
        return [body["metadata"]["resourceVersion"] for body in found]

    async def runs_of_broken() -> int:
        return len((await tenant.plans())["broken"]["status"]["history"])

    async def counted() -> bool:
        return bool((await tenant.resources())[resource]["status"]["plans"] == 1)

    await eventually(counted, what="the plan is counted")
    before, runs = await versions(), await runs_of_broken()
    await operator.stop(PATIENCE_SECONDS)
    offset = postgres.log.stat().st_size
    await operator.start()

    async def looked() -> bool:
        return any(f"@{database} LOG:  statement: COMMIT" in line for line in logged(postgres, offset))

    await eventually(looked, what="the plan has been looked at")
    await tenant.annotate("broken", reconcile_at="1")
    await tenant.until_plans(["broken"], "DatabaseNotFound")
    assert await runs_of_broken() == runs + 1
    assert await versions() == before

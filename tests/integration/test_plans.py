"""What a plan comes to when nothing stands against it: role, Secret, status, events."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.server_log import logged, looks
from integration.tenant import Tenant, eventually, ready, roles_of
from local.postgresql import Server

WRITES = re.compile(r"\b(CREATE|ALTER|GRANT|REVOKE|COMMENT|DROP|REASSIGN)\b")
NO_DRIFT = {"HOOP_DRIFT_INTERVAL_SECONDS": "3600", "HOOP_RETRY_SECONDS_MAX": "2"}

Operators = Callable[[Mapping[str, str]], OperatorProcess]


def conditions(plan: Mapping[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in plan["status"]["conditions"]}


async def applied(tenant: Tenant, plan: str) -> dict[str, Any]:
    return (await tenant.until_plans([plan]))[plan]


async def grants(admin: Administrator, database: str, role: str) -> set[tuple[str, str]]:
    session = await admin.connect(database)
    rows = await session.execute(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = %s",
        (role,),
    )
    return {(table, privilege) for table, privilege in await rows.fetchall()}


async def test_a_managed_plan_says_all_that_it_did(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT", "INSERT"])
    status = (await applied(tenant, "ro"))["status"]
    name = role_name(resource, "ro")
    session = await admin.connect()
    row = await (await session.execute("SELECT oid FROM pg_roles WHERE rolname = %s", (name,))).fetchone()
    assert row is not None
    assert (status["role"], status["roleOid"], status["resourceName"]) == (name, row[0], resource)
    assert (status["status"], status["message"], status["observedGeneration"]) == ("success", "", 1)
    assert status["secretName"] == status["binding"]["name"] == "ro-credentials"
    assert UUID(status["sid"]) == UUID(status["plan"]["sid"])
    assert status["plan"]["count"] == len(status["plan"]["statements"]) > 3
    assert status["plan"]["checksum"]
    (run,) = status["history"]
    assert (run["sid"], run["status"], run["trigger"]) == (status["sid"], "success", "spec")
    assert (run["checksum"], run["statementCount"]) == (status["plan"]["checksum"], status["plan"]["count"])
    assert status["lastAppliedTime"] >= run["startedAt"]
    assert conditions({"status": status}) == dict.fromkeys(
        ("Ready", "Planned", "Applied", "SecretReady", "InSync", "FutureObjectsCovered"), "True"
    )
    shown = "\n".join(status["plan"]["statements"])
    assert f"""CREATE ROLE "{name}" LOGIN INHERIT PASSWORD '********'""" in shown
    assert (await tenant.secret("ro"))["password"] not in str(status)
    assert "SCRAM" not in shown
    assert (await tenant.events("ro")) == []


async def test_the_secret_lets_a_client_in_by_any_of_its_keys_and_no_further_than_the_plan(
    tenant: Tenant, postgres: Server, database: str, resource: str, tmp_path: Path
) -> None:
    await tenant.plan("ro", resource, scopes=[database, "postgres"], privileges=["SELECT", "INSERT"])
    await tenant.until_plans(["ro"])
    secret = await tenant.secret("ro")
    assert secret.keys() == {
        *(
            "type",
            "provider",
            "host",
            "port",
            "username",
            "user",
            "password",
            "database",
            "dbname",
            "databases",
        ),
        *("sslmode", "uri", "jdbc-uri", "pgpass"),
    }
    assert secret["type"] == "postgresql"
    assert (secret["database"], secret["databases"]) == (database, f"{database},postgres")
    assert secret["jdbc-uri"].startswith(
        f"jdbc:postgresql://{postgres.host}:{postgres.port}/{database}?user="
    )
    async with await psycopg.AsyncConnection.connect(secret["uri"], autocommit=True) as session:
        await session.execute("INSERT INTO orders (item) VALUES ('tea')")
        row = await (await session.execute("SELECT item FROM orders")).fetchone()
        assert row == ("tea",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await session.execute("DELETE FROM orders")
    passfile = tmp_path / "pgpass"
    passfile.write_text(secret["pgpass"])
    passfile.chmod(0o600)
    by_file = f"host={secret['host']} port={secret['port']} user={secret['user']} dbname={database} passfile={passfile}"
    async with await psycopg.AsyncConnection.connect(by_file) as session:
        assert session.info.user == role_name(resource, "ro")


async def test_an_external_plan_is_a_member_of_its_source_role_and_its_database_is_the_resources(
    tenant: Tenant, admin: Administrator, resource: str, postgres: Server
) -> None:
    await tenant.plan("ext", resource, type="external", sourceRole="pg_read_all_data")
    status = (await applied(tenant, "ext"))["status"]
    session = await admin.connect()
    row = await (
        await session.execute(
            "SELECT array_agg(roleid::regrole::text) FROM pg_auth_members WHERE member = %s",
            (status["roleOid"],),
        )
    ).fetchone()
    assert row == (["pg_read_all_data"],)
    secret = await tenant.secret("ext")
    assert secret["database"] == secret["databases"] == "postgres"
    assert "FutureObjectsCovered" not in conditions({"status": status})
    async with await tenant.log_in("ext", postgres):
        pass

    async def events() -> list[tuple[str, str]]:
        return [(kind, reason) for kind, reason, _ in await tenant.events("ext")]

    assert await eventually(events, what="an event") == [("Warning", "BroadSourceRole")]


async def test_a_secret_template_adds_keys_labels_and_annotations(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str
) -> None:
    template = {
        "labels": {"team": "shop"},
        "annotations": {"example.com/owner": "shop"},
        "data": {"DSN": "${user}@${host}:${port}/${dbname}", "PRICE": "5 $$"},
    }
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], secretTemplate=template)
    await tenant.until_plans(["ro"])
    secret = await tenant.secret("ro")
    assert secret["DSN"] == f"{secret['user']}@{secret['host']}:{secret['port']}/{database}"
    assert secret["PRICE"] == "5 $"
    body = await api.get(paths.secret(tenant.namespace, "ro-credentials"))
    assert body["type"] == "servicebinding.io/postgresql"
    assert body["metadata"]["labels"]["team"] == "shop"
    assert body["metadata"]["annotations"]["example.com/owner"] == "shop"
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("HoopRolePlan", "ro", True)
    await tenant.change("ro", secretTemplate={"data": {"DSN": None}})
    await tenant.until_plans(["ro"])
    assert "DSN" not in await tenant.secret("ro")


async def test_another_type_replaces_the_secret_with_the_same_password_and_the_keys_added_by_hand(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await tenant.change_secret("ro-credentials", extra="by hand")
    before = await tenant.secret("ro")
    await tenant.change("ro", secretTemplate={"type": "Opaque"})
    await tenant.until_plans(["ro"])
    assert (await api.get(paths.secret(tenant.namespace, "ro-credentials")))["type"] == "Opaque"
    assert await tenant.secret("ro") == before
    async with await tenant.log_in("ro", postgres):
        pass


async def test_another_secret_name_removes_the_former_secret_and_keeps_the_password(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    before = await api.get(paths.secret(tenant.namespace, "ro-credentials"))
    await tenant.change("ro", secretName="other")
    status = (await applied(tenant, "ro"))["status"]
    assert status["secretName"] == status["binding"]["name"] == "other"
    with pytest.raises(ObjectNotFound):
        await api.get(paths.secret(tenant.namespace, "ro-credentials"))
    body = await api.get(paths.secret(tenant.namespace, "other"))
    assert body["data"]["password"] == before["data"]["password"]


async def test_an_advertised_endpoint_goes_into_the_secret_and_its_change_reaches_it(
    tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await tenant.change_resource(resource, advertise={"host": "pooler.example.com", "port": 6432})

    async def told() -> bool:
        secret = await tenant.secret("ro")
        return (secret["host"], secret["port"]) == ("pooler.example.com", "6432")

    await eventually(told, what="the advertised endpoint is in the Secret")


async def test_a_look_that_finds_all_in_order_writes_nothing_to_either_side(
    tenant: Tenant, api: KubernetesApi, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT", "INSERT", "CREATE", "EXECUTE"])
    await tenant.plan("ext", resource, type="external", sourceRole="pg_read_all_data")
    await tenant.until_plans(["ro", "ext"])

    async def counted() -> bool:
        return bool((await tenant.resources())[resource]["status"]["plans"] == 2)

    await eventually(counted, what="the resource counts its plans")

    async def versions() -> list[str]:
        bodies = [
            await api.get(path)
            for path in (
                paths.hoop_role_plan(tenant.namespace, "ro"),
                paths.hoop_role_plan(tenant.namespace, "ext"),
                paths.hoop_resource(tenant.namespace, resource),
                paths.secret(tenant.namespace, "ro-credentials"),
                paths.secret(tenant.namespace, "ext-credentials"),
            )
        ]
        return [body["metadata"]["resourceVersion"] for body in bodies]

    before, offset = await versions(), postgres.log.stat().st_size

    await looks(postgres, database, 3)
    role = role_name(resource, "ro")
    ours = [line for line in logged(postgres, offset) if f"@{database} " in line or role in line]
    assert [line for line in ours if WRITES.search(line.split("LOG:", 1)[-1])] == []
    assert await versions() == before


async def test_what_somebody_changed_on_the_server_is_repaired_on_the_drift_clock_with_one_event(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    first = await applied(tenant, "ro")
    role = sql.Identifier(first["status"]["role"])
    session = await admin.connect(database)
    # Between two looks and all at once: one that meets half of it would repair that with an event of its own.
    await looks(postgres, database)
    async with session.transaction():
        await session.execute(sql.SQL("REVOKE SELECT ON orders FROM {}").format(role))
        await session.execute(sql.SQL("GRANT DELETE ON customers TO {}").format(role))
        await session.execute(sql.SQL("ALTER ROLE {} NOLOGIN CREATEDB CONNECTION LIMIT 1").format(role))

    def repaired(plan: Mapping[str, Any]) -> bool:
        return bool(plan["status"]["sid"] != first["status"]["sid"])

    plan = await tenant.until_plan("ro", repaired, "the drift is repaired")
    assert plan["status"]["history"][0]["trigger"] == "drift"
    assert await grants(admin, database, first["status"]["role"]) == {
        ("orders", "SELECT"),
        ("customers", "SELECT"),
    }
    async with await tenant.log_in("ro", postgres):
        pass

    async def told() -> bool:
        return bool(await tenant.events("ro"))

    await eventually(told, what="an event about the repair")
    ((kind, reason, note),) = await tenant.events("ro")
    assert (kind, reason) == ("Normal", "DriftRepaired")
    assert 'extra DELETE on table "public"."customers" in database' in note


async def test_a_changed_spec_is_applied_with_a_normal_event_and_takes_back_what_left_it(
    tenant: Tenant, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan("rw", resource, scopes=[database], privileges=["SELECT", "INSERT"])
    before = await applied(tenant, "rw")
    await tenant.change("rw", privileges=["SELECT"])
    after = await applied(tenant, "rw")
    assert after["status"]["sid"] != before["status"]["sid"]
    assert [run["trigger"] for run in after["status"]["history"]] == ["spec", "spec"]
    assert await grants(admin, database, before["status"]["role"]) == {
        ("orders", "SELECT"),
        ("customers", "SELECT"),
    }

    async def told() -> bool:
        return [kind for kind, _, _ in await tenant.events("rw")] == ["Normal"]

    await eventually(told, what="one event about the change")


async def test_a_new_generation_has_its_outcome_written_even_where_nothing_was_to_be_done(
    tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    before = await applied(tenant, "ro")
    await tenant.change("ro", scopes=[f"{database}.public"])
    after = await applied(tenant, "ro")
    assert after["status"]["observedGeneration"] == 2
    assert after["status"]["sid"] != before["status"]["sid"]
    assert after["status"]["plan"] == before["status"]["plan"]
    assert after["status"]["history"][0]["statementCount"] == 0
    assert await tenant.events("ro") == []


async def test_ignored_fields_are_pointed_out_once_for_each_generation(
    tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], sourceRole="pg_monitor")
    await tenant.until_plans(["ro"])

    async def warned(times: int) -> bool:
        return [reason for _, reason, _ in await tenant.events("ro")].count("IgnoredField") == times

    await eventually(lambda: warned(1), what="a warning")
    await tenant.annotate("ro", reconcile_at="1")
    await tenant.until_plans(["ro"])
    await tenant.change("ro", sourceRole="pg_signal_backend")
    await tenant.until_plans(["ro"])
    await eventually(lambda: warned(2), what="a second warning")
    assert all("spec.sourceRole" in note for _, _, note in await tenant.events("ro"))


async def test_reconcile_at_runs_once_for_each_value(
    tenant: Tenant, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    sids = {(await applied(tenant, "ro"))["status"]["sid"]}
    for value in ("1", "2"):
        await tenant.annotate("ro", reconcile_at=value)
        plan = await applied(tenant, "ro")
        assert plan["status"]["history"][0]["trigger"] == "annotation"
        sids.add(plan["status"]["sid"])
    assert len(sids) == 3
    await tenant.api.merge_patch(
        paths.hoop_role_plan(tenant.namespace, "ro"),
        {"metadata": {"annotations": {"hoop.dev/reconcile-at": None}}},
    )
    await tenant.annotate("ro", reconcile_at="2")
    await looks(postgres, database, 2)
    assert len((await tenant.plans())["ro"]["status"]["history"]) == 3


async def test_a_suspended_plan_meets_no_server_and_goes_on_when_it_is_let(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    witness = await admin.create_database()
    await tenant.plan("witness", resource, scopes=[witness], privileges=["SELECT"])
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    role = (await applied(tenant, "ro"))["status"]["role"]
    await tenant.change("ro", suspend=True, privileges=["SELECT", "DELETE"])
    plan = (await tenant.until_plans(["ro"], "Suspended"))["ro"]
    assert (plan["status"]["status"], plan["status"]["message"]) == ("success", "")
    assert (conditions(plan)["Ready"], conditions(plan)["Suspended"]) == ("False", "True")
    session = await admin.connect()
    await session.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))
    offset = postgres.log.stat().st_size
    await tenant.annotate("ro", reconcile_at="now")
    await tenant.until_plans(["ro"], "Suspended")
    await looks(postgres, witness, 2)
    assert [line for line in logged(postgres, offset) if role in line or f"@{database} " in line] == []
    assert await tenant.events("ro") == []
    await tenant.change("ro", suspend=False)
    plan = await applied(tenant, "ro")
    assert (conditions(plan)["Ready"], conditions(plan)["Suspended"]) == ("True", "False")
    assert ("orders", "DELETE") in await grants(admin, database, role)
    async with await tenant.log_in("ro", postgres):
        pass


async def test_the_resource_counts_the_plans_that_use_it(
    tenant: Tenant, database: str, resource: str
) -> None:
    async def count() -> Any:
        return (await tenant.resources())[resource]["status"].get("plans")

    async def is_count(number: int) -> bool:
        return bool(await count() == number)

    assert await count() == 0
    for name in ("a", "b"):
        await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("broken", resource, scopes=["no_such_database"], privileges=["SELECT"])
    await tenant.until_plans(["a", "b"])
    await tenant.until_plans(["broken"], "DatabaseNotFound")
    await eventually(lambda: is_count(2), what="two plans counted")
    await tenant.delete("a")
    await tenant.until_gone("a")
    await eventually(lambda: is_count(1), what="one plan counted")


async def test_of_two_plans_that_mean_one_role_one_has_it_and_the_other_is_told_whose_it_is(
    tenant: Tenant, admin: Administrator, database: str, resource: str, api: KubernetesApi
) -> None:
    for name in ("first", "second"):
        await tenant.plan(name, resource, role="ro", scopes=[database], privileges=["SELECT"])

    async def settled() -> list[str]:
        reasons = {name: ready(plan)[0] for name, plan in (await tenant.plans()).items()}
        winners = [name for name, reason in reasons.items() if reason == "Applied"]
        return winners if sorted(reasons.values()) == ["Applied", "RoleConflict"] else []

    (winner,) = await eventually(settled, what="one plan Applied, one RoleConflict")
    (loser,) = {"first", "second"} - {winner}
    plan = (await tenant.plans())[loser]
    assert f"default/{tenant.namespace}/{winner}" in ready(plan)[1]
    assert "finalizers" not in plan["metadata"]
    with pytest.raises(ObjectNotFound):
        await api.get(paths.secret(tenant.namespace, f"{loser}-credentials"))
    session = await admin.connect()
    assert await roles_of(session, tenant.namespace, loser) == []
    await tenant.delete(winner)
    await tenant.until_gone(winner)
    await tenant.until_plans([loser])
    assert await roles_of(session, tenant.namespace, loser) == [role_name(resource, "ro")]


async def test_two_resources_of_one_name_on_one_server_share_no_role(
    tenant: Tenant,
    api: KubernetesApi,
    new_namespace: Callable[[], str],
    database: str,
    postgres: Server,
    resource: str,
) -> None:
    neighbour = Tenant(api, new_namespace())
    theirs = await neighbour.resource(
        postgres, user=postgres.user, password=postgres.password, resourceName=resource
    )
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    await neighbour.plan("ro", theirs, scopes=[database], privileges=["SELECT"])
    plan = (await neighbour.until_plans(["ro"], "RoleConflict"))["ro"]
    assert f"default/{tenant.namespace}/ro" in ready(plan)[1]
    assert plan["status"]["status"] == "failed"


async def test_a_label_can_be_used_again_after_its_plan_is_gone(
    tenant: Tenant, admin: Administrator, database: str, resource: str, postgres: Server
) -> None:
    await tenant.plan("one", resource, role="ro", scopes=[database], privileges=["SELECT", "DELETE"])
    first = await applied(tenant, "one")
    await tenant.plan("two", resource, role="ro", scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["two"], "RoleConflict")
    await tenant.delete("one")
    second = await applied(tenant, "two")
    assert second["status"]["role"] == first["status"]["role"]
    assert second["status"]["roleOid"] != first["status"]["roleOid"]
    assert ("orders", "DELETE") not in await grants(admin, database, second["status"]["role"])
    async with await tenant.log_in("two", postgres):
        pass


async def test_what_somebody_wiped_off_the_object_is_put_back_and_nothing_is_done_twice(
    tenant: Tenant, api: KubernetesApi, admin: Administrator, database: str, resource: str
) -> None:
    await tenant.plan(
        "ro", resource, scopes=[database], privileges=["SELECT"], annotations={"hoop.dev/rotate-at": "1"}
    )
    await tenant.until_plans(["ro"])
    before = await tenant.secret("ro")
    path = paths.hoop_role_plan(tenant.namespace, "ro")
    await api.merge_patch(path, {"metadata": {"finalizers": None, "annotations": None}})

    def is_held(plan: Mapping[str, Any]) -> bool:
        return bool(plan["metadata"].get("finalizers"))

    await tenant.until_plan("ro", is_held, "the finalizer is back")
    await tenant.annotate("ro", rotate_at="1", reconcile_at="now")
    await tenant.until_plans(["ro"])
    assert await tenant.secret("ro") == before
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    assert await roles_of(await admin.connect(), tenant.namespace, "ro") == []


async def test_a_role_that_may_create_has_its_future_objects_covered_for_the_others_soon(
    api: KubernetesApi,
    namespace: str,
    own_operator: Operators,
    admin: Administrator,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator(NO_DRIFT)
    await operator.start()
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("reader", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["reader"])
    await tenant.plan("maker", resource, scopes=[database], privileges=["CREATE"])
    await tenant.until_plans(["maker"])
    maker, reader = role_name(resource, "maker"), role_name(resource, "reader")
    session = await admin.connect(database)

    async def covered() -> bool:
        rows = await session.execute(
            "SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a"
            " WHERE d.defaclrole = %s::regrole AND a.grantee = %s::regrole",
            (f'"{maker}"', f'"{reader}"'),
        )
        return bool(await rows.fetchall())

    await eventually(covered, what="default privileges for the maker's tables")
    async with await tenant.log_in("maker", postgres) as session_of_maker:
        await session_of_maker.execute("CREATE TABLE made (id int)")
    async with await tenant.log_in("reader", postgres) as session_of_reader:
        await session_of_reader.execute("SELECT FROM made")

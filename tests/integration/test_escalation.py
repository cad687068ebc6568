"""Whoever may write plans alone gets what a plan gives, whatever they try; and so does who logs in with one."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi, connect
from hoop_operator.errors import AccessDenied
from hoop_operator.naming import role_name
from hoop_operator.postgres import scram
from hoop_operator.postgres.establish import establish
from hoop_operator.postgres.session import open_sessions
from integration.administrator import Administrator
from integration.rights import until_in_force
from integration.roles import LIMITS, Roles, literal, quoted
from integration.tenant import Tenant, eventually, ready, roles_of
from local import cluster, kubeconfig
from local.errors import StackError
from local.postgresql import Server
from local.stack import Stack

SCOPES_IN_THE_SYSTEM = (
    'postgres."pg_catalog"',
    '"postgres"."pg_toast"',
    'postgres."information_schema"',
    '"a.b"."pg_catalog"',
    "postgres.pg_catalog.pg_authid",
    '"pg""x".pg_temp',
)
SCOPES_OF_OTHER_NAMES = {
    "postgres.PG_CATALOG": "SchemaNotFound",
    "postgres. pg_catalog": "SchemaNotFound",
    'postgres."Information_Schema"': "SchemaNotFound",
    "POSTGRES": "DatabaseNotFound",
    "template0.public": "DatabaseNotFound",
    '"template1"': "DatabaseNotFound",
}
SOURCE_ROLES = {
    "postgres": "DangerousSourceRole",
    "pg_execute_server_program": "DangerousSourceRole",
    "pg_database_owner": "InvalidSpec",
    "Postgres": "SourceRoleNotFound",
    "public": "SourceRoleNotFound",
    "current_user": "SourceRoleNotFound",
    'x"; ALTER ROLE x SUPERUSER; --': "SourceRoleNotFound",
    "postgres" + "\u00e9" * 30: "SourceRoleNotFound",
}


@pytest.fixture
async def writer(
    tenant: Tenant, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Tenant]:
    """Somebody in the tenant's namespace who has our part of Kubernetes' role edit and nothing else."""

    def kubectl(*arguments: str) -> str:
        return cluster.kubectl(stack.kubeconfig, f"--namespace={tenant.namespace}", *arguments)

    kubectl("create", "serviceaccount", "writer")
    for role in ("hoop-view", "hoop-edit"):
        account = f"--serviceaccount={tenant.namespace}:writer"
        kubectl("create", "rolebinding", role, f"--clusterrole={role}", account)

    def may_write() -> bool:
        account = f"--as=system:serviceaccount:{tenant.namespace}:writer"
        try:
            return kubectl("auth", "can-i", "create", "hooproleplans.hoop.dev", account).strip() == "yes"
        except StackError:  # kubectl exits with 1 for a "no"
            return False

    until_in_force(may_write)
    path = tmp_path / "kubeconfig"
    token = kubectl("create", "token", "writer").strip()
    kubeconfig.save(path, kubeconfig.with_token(kubeconfig.read(stack.kubeconfig), token))
    with monkeypatch.context() as environment:
        environment.setenv("KUBECONFIG", str(path))
        connection = connect()
        api = await connection.__aenter__()
    yield Tenant(api, tenant.namespace)
    await connection.__aexit__(None, None, None)


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    roles = Roles(admin)
    yield roles
    await roles.close()


async def refused(
    writer: Tenant, tenant: Tenant, roles: Roles, resource: str, reasons: dict[str, str]
) -> dict[str, str]:
    """See that plans are refused for their reasons, and have left nothing anywhere; return their messages."""
    messages: dict[str, str] = {}
    for reason in set(reasons.values()):
        names = [name for name in reasons if reasons[name] == reason]
        plans = await writer.until_plans(names, reason)
        messages |= {name: ready(plan)[1] for name, plan in plans.items()}
        assert [name for name, plan in plans.items() if "finalizers" in plan["metadata"]] == []
    made = {role_name(resource, name) for name in reasons}
    found = await roles.rows(
        "postgres", "SELECT rolname FROM pg_roles WHERE rolname = ANY (%(m)s)", m=[*made]
    )
    assert found == []
    for name in reasons:
        assert await tenant.secret(name) == {}
    return messages


async def test_the_shipped_roles_for_plans_open_nothing_else(writer: Tenant, resource: str) -> None:
    await writer.plan("ro", resource, scopes=["postgres"], privileges=["SELECT"], suspend=True)
    await writer.until_plans(["ro"], "Suspended")
    forged = {"status": {"role": "postgres", "roleOid": 10}}
    plan = paths.hoop_role_plan(writer.namespace, "ro")
    with pytest.raises(AccessDenied):
        await writer.api.merge_patch(paths.status(plan), forged)
    await writer.api.merge_patch(plan, forged)
    assert "roleOid" not in (await writer.plans())["ro"]["status"]
    for path in (paths.secrets(writer.namespace), paths.hoop_resources(writer.namespace)):
        with pytest.raises(AccessDenied):
            await writer.api.get(path)


async def test_no_spelling_reaches_a_schema_of_the_system_or_a_template(
    writer: Tenant, tenant: Tenant, roles: Roles, resource: str
) -> None:
    asked = dict.fromkeys(SCOPES_IN_THE_SYSTEM, "InvalidSpec") | SCOPES_OF_OTHER_NAMES
    reasons = {}
    for number, (scope, reason) in enumerate(asked.items()):
        reasons[f"p{number}"] = reason
        await writer.plan(f"p{number}", resource, scopes=[scope], privileges=["SELECT"])
    messages = await refused(writer, tenant, roles, resource, reasons)
    assert [name for name in reasons if "spec.scopes" not in messages[name]] == []


async def test_no_name_of_a_source_role_is_another_role_or_more_than_a_name(
    writer: Tenant, tenant: Tenant, roles: Roles, resource: str
) -> None:
    reasons = {}
    for number, (source, reason) in enumerate(SOURCE_ROLES.items()):
        reasons[f"p{number}"] = reason
        await writer.plan(f"p{number}", resource, type="external", sourceRole=source)
    await refused(writer, tenant, roles, resource, reasons)


async def test_a_dangerous_role_is_found_three_memberships_away_by_whatever_option(
    writer: Tenant, tenant: Tenant, roles: Roles, resource: str, database: str
) -> None:
    await tenant.plan("victim", resource, scopes=[database], privileges=["SELECT"])
    victim = (await tenant.until_plans(["victim"]))["victim"]["status"]["role"]
    options: tuple[str, ...] = ("",)
    if roles.version >= 16:
        options = (
            " WITH INHERIT TRUE, SET FALSE",
            " WITH INHERIT FALSE, SET TRUE",
            " WITH INHERIT FALSE, SET FALSE, ADMIN TRUE",
        )
    reasons: dict[str, str] = {}
    for number, option in enumerate(options):
        for end in ("pg_read_server_files", victim):
            name = f"p{len(reasons)}"
            chain = [end]
            for step in ("far", "mid", "near"):
                chain.append(await roles.role(f"{step}{number}{name}"))
                await roles.run("postgres", f"GRANT {quoted(chain[-2])} TO {quoted(chain[-1])}{option}")
            await writer.plan(name, resource, type="external", sourceRole=chain[-1])
            reasons[name] = "DangerousSourceRole"
    messages = await refused(writer, tenant, roles, resource, reasons)
    for number, end in enumerate(("pg_read_server_files", victim) * len(options)):
        assert f'"{end}", which it reaches' in messages[f"p{number}"]


async def test_names_that_derive_alike_share_no_role(
    writer: Tenant, tenant: Tenant, roles: Roles, admin: Administrator, postgres: Server, database: str
) -> None:
    shop = f"shop{roles.suffix}"
    one = await tenant.resource(postgres, user=postgres.user, password=postgres.password, resourceName=shop)
    other = await tenant.resource(
        postgres, user=postgres.user, password=postgres.password, resourceName=f"{shop}:ro"
    )
    await tenant.plan("mine", one, role="ro:x", scopes=[database], privileges=["SELECT"])
    mine = (await tenant.until_plans(["mine"]))["mine"]["status"]["role"]
    assert mine == role_name(f"{shop}:ro", "x")
    password = (await tenant.secret("mine"))["password"]
    await writer.plan("theirs", other, role="x", scopes=[database], privileges=["DELETE"])
    await writer.until_plans(["theirs"], "RoleConflict")
    assert await tenant.secret("theirs") == {}
    await writer.delete("theirs")
    await writer.until_gone("theirs")
    session = await admin.connect()
    assert await roles_of(session, tenant.namespace, "mine") == [mine]
    assert ("relation", "orders", "DELETE") not in await roles.held(database, mine)
    assert (await tenant.secret("mine"))["password"] == password


async def test_labels_that_derive_alike_share_no_role_in_one_turn(
    writer: Tenant, tenant: Tenant, admin: Administrator, resource: str, database: str
) -> None:
    labels = _labels_of_one_role(resource)
    await tenant.change_resource(resource, guardrails={"privileges": []})
    for number, label in enumerate(labels):
        await writer.plan(f"p{number}", resource, role=label, scopes=[database], privileges=["SELECT"])
    await writer.until_plans(["p0", "p1"], "GuardrailViolation")
    await tenant.change_resource(resource, guardrails=None)

    async def decided() -> dict[str, str]:
        plans = await writer.plans()
        return {ready(plans[name])[0]: name for name in ("p0", "p1")}

    async def one_has_it() -> dict[str, str]:
        found = await decided()
        return found if found.keys() == {"Applied", "RoleConflict"} else {}

    found = await eventually(one_has_it, what="one has the role and the other hears of it")
    session = await admin.connect()
    assert await roles_of(session, tenant.namespace, found["Applied"]) == [role_name(resource, labels[0])]
    loser = (await writer.plans())[found["RoleConflict"]]
    assert [entry["status"] for entry in loser["status"]["history"] if entry["status"] == "success"] == []


def _labels_of_one_role(resource: str) -> tuple[str, str]:
    """Two labels whose names, 32 bits of digest included, are the same; a birthday finds them soon."""
    signs = "-.,:;!?+*/=~"
    seen: dict[str, str] = {}
    for number in range(12**7):
        label, rest = "x", number
        for _ in range(7):
            rest, sign = divmod(rest, len(signs))
            label += signs[sign]
        name = role_name(resource, label)
        if name in seen:
            return seen[name], label
        seen[name] = label
    raise AssertionError("no two labels of one role")


@pytest.mark.parametrize(
    "comment",
    [
        "hoop.dev/role-plan: blue/{namespace}/ro",
        "hoop.dev/role-plan: default/{namespace}/ro ",
        "hoop.dev/role-plan: default/{namespace}",
        "Hoop.dev/role-plan: default/{namespace}/ro",
    ],
)
async def test_a_role_with_almost_the_plans_comment_is_neither_taken_nor_dropped(
    writer: Tenant, tenant: Tenant, roles: Roles, resource: str, comment: str
) -> None:
    name = role_name(resource, "ro")
    roles.roles.append(name)
    text = comment.format(namespace=tenant.namespace)
    await roles.run(
        "postgres",
        f"CREATE ROLE {quoted(name)} NOLOGIN",
        f"COMMENT ON ROLE {quoted(name)} IS {literal(text)}",
    )
    await writer.plan("ro", resource, scopes=["postgres"], privileges=["SELECT"])
    await writer.until_plans(["ro"], "RoleConflict")
    await writer.api.merge_patch(
        paths.hoop_role_plan(writer.namespace, "ro"), {"metadata": {"finalizers": ["hoop.dev/operator"]}}
    )
    await writer.delete("ro")
    await writer.until_gone("ro")
    assert await roles.rows(
        "postgres",
        "SELECT rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %(name)s",
        name=name,
    ) == [(False, text)]


async def test_no_secret_of_somebody_else_is_taken_read_or_deleted(
    writer: Tenant, tenant: Tenant, api: KubernetesApi, stack: Stack, resource: str, database: str
) -> None:
    release = {"labels": {"owner": "helm", "name": "shop", "status": "deployed", "version": "1"}}
    account = {"annotations": {"kubernetes.io/service-account.name": "writer"}}
    foreign = {"apiVersion": "other.example/v1", "kind": "HoopRolePlan", "name": "p4", "uid": "1"}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("Opaque", {}),
        "account": ("kubernetes.io/service-account-token", account),
        "release": ("helm.sh/release.v1", release),
        "controlled": ("Opaque", {"ownerReferences": [{**foreign, "controller": True}]}),
    }
    for name, (kind, metadata) in made.items():
        body = {"metadata": {"name": name, **metadata}, "type": kind, "stringData": {"password": "stolen"}}
        await api.create(paths.secrets(tenant.namespace), {"apiVersion": "v1", "kind": "Secret", **body})
    await tenant.plan("victim", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["victim"])
    names = [f"{resource}-admin", "plain", "account", "release", "controlled", "victim-credentials"]
    before = {name: await _content(api, tenant.namespace, name) for name in names}
    thieves = [f"p{number}" for number in range(len(names))]
    for thief, name in zip(thieves, names, strict=True):
        await writer.plan(thief, resource, secretName=name, scopes=[database], privileges=["SELECT"])
    await writer.until_plans(thieves, "SecretConflict")
    for thief in thieves:
        await writer.delete(thief)
        await writer.until_gone(thief)
    assert {name: await _content(api, tenant.namespace, name) for name in names} == before


async def _content(api: KubernetesApi, namespace: str, name: str) -> tuple[Any, ...]:
    body = await api.get(paths.secret(namespace, name))
    return body["metadata"]["uid"], body["type"], body["metadata"].get("labels"), body["data"]


async def test_a_forged_status_lets_no_foreign_secret_be_read_or_deleted(
    tenant: Tenant, api: KubernetesApi, resource: str, database: str
) -> None:
    body = {"metadata": {"name": "foreign"}, "stringData": {"password": "stolen"}}
    await api.create(paths.secrets(tenant.namespace), {"apiVersion": "v1", "kind": "Secret", **body})
    before = await _content(api, tenant.namespace, "foreign")
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["ro"])
    forged = {"status": {"secretName": "foreign", "binding": {"name": "foreign"}}}
    await api.merge_patch(paths.status(paths.hoop_role_plan(tenant.namespace, "ro")), forged)
    await api.delete(paths.secret(tenant.namespace, "ro-credentials"))
    await tenant.annotate("ro", rotate_at="now", reconcile_at="now")
    plan = (await tenant.until_plans(["ro"]))["ro"]
    assert (await tenant.secret("ro"))["password"] != "stolen"
    assert plan["status"]["secretName"] == "ro-credentials"
    assert await _content(api, tenant.namespace, "foreign") == before


# Guardrails that come later.


@pytest.mark.parametrize("listed", [None, "{source}*", "another"])
async def test_a_dangerous_source_role_that_is_not_listed_any_more_stops_everything_and_takes_nothing_away(
    tenant: Tenant, api: KubernetesApi, roles: Roles, resource: str, listed: str | None
) -> None:
    source, further = await roles.role("source", "CREATEDB"), await roles.role("further")
    await tenant.change_resource(resource, guardrails={"sourceRoles": [source]})
    await tenant.plan("ext", resource, type="external", sourceRole=source)
    role = (await tenant.until_plans(["ext"]))["ext"]["status"]["role"]
    verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = %(role)s"
    before = await roles.rows("postgres", verifier, role=role)
    globs = [listed.format(source=source[:-1])] if listed else None
    reason = "GuardrailViolation" if listed == "another" else "DangerousSourceRole"
    await tenant.change_resource(resource, guardrails={"sourceRoles": globs})
    await tenant.until_plans(["ext"], reason)
    await roles.run("postgres", f"GRANT {quoted(further)} TO {quoted(role)}")
    await api.delete(paths.secret(tenant.namespace, "ext-credentials"))
    await tenant.annotate("ext", rotate_at="now", reconcile_at="now")
    await tenant.until_plans(["ext"], reason)
    assert await tenant.secret("ext") == {}
    assert await roles.rows("postgres", verifier, role=role) == before
    assert await _memberships(roles, role) == {source, further}
    await tenant.change_resource(resource, guardrails={"sourceRoles": [source]})
    await tenant.until_plans(["ext"])
    assert await _memberships(roles, role) == {source}
    assert await roles.rows("postgres", verifier, role=role) != before
    await tenant.change_resource(resource, guardrails={"sourceRoles": globs})
    await tenant.until_plans(["ext"], reason)
    await tenant.delete("ext")
    await tenant.until_gone("ext")
    assert not await roles.exists(role)


async def _memberships(roles: Roles, role: str) -> set[str]:
    rows = await roles.rows(
        "postgres",
        "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)",
        role=role,
    )
    return {row[0] for row in rows}


async def test_a_source_role_named_like_a_glob_can_be_listed_by_its_name(
    tenant: Tenant, roles: Roles, resource: str
) -> None:
    source = await roles.role("so[ur]ce", "CREATEDB")
    await tenant.change_resource(resource, guardrails={"sourceRoles": [source]})
    await tenant.plan("ext", resource, type="external", sourceRole=source)
    await tenant.until_plans(["ext"])
    await tenant.delete("ext")
    await tenant.until_gone("ext")


# Who logs in with a plan's credentials.


async def test_what_a_role_stores_as_its_password_hinders_nobody_and_is_set_back(
    tenant: Tenant, roles: Roles, postgres: Server, resource: str, database: str
) -> None:
    await tenant.plan("odd", resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("neighbour", resource, scopes=[database], privileges=["SELECT"])
    await tenant.until_plans(["odd", "neighbour"])
    privileges = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
    for privilege, verifier in zip(privileges, _odd_verifiers(), strict=True):
        async with await tenant.log_in("odd", postgres) as session:
            command = sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}")
            await session.execute(command.format(sql.Literal(verifier) if verifier else sql.NULL))
        await tenant.change("neighbour", privileges=[privilege])
        await tenant.until_plans(["neighbour"])

        async def lets_in() -> bool:
            try:
                async with await tenant.log_in("odd", postgres):
                    return True
            except psycopg.OperationalError:
                return False

        await eventually(lets_in, what=f"the Secret's password again in place of {verifier}")


def _odd_verifiers() -> Iterable[str | None]:
    made = scram.make_verifier("odd")
    yield made.replace(f"${scram.ITERATIONS}:", "$0:")
    yield made.replace(f"${scram.ITERATIONS}:", "$-5:")
    yield None
    yield made


async def test_a_verifier_that_nobody_can_log_in_with_is_another_password(roles: Roles) -> None:
    name = await roles.role("odd", "LOGIN")
    async with open_sessions(roles.connection, LIMITS, lambda _: True) as sessions:
        for verifier in _odd_verifiers():
            value = literal(verifier) if verifier else "NULL"
            await roles.run("postgres", f"ALTER ROLE {quoted(name)} PASSWORD {value}")
            assert await sessions.can_log_in(name, "plain", "postgres") is False, verifier


async def test_a_login_that_computes_for_long_is_given_up_even_with_the_right_password(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await roles.role("slow", "LOGIN")
    monkeypatch.setattr(scram, "ITERATIONS", 5_000_000)
    verifier = scram.make_verifier(roles.password)
    await roles.run("postgres", f"ALTER ROLE {quoted(name)} PASSWORD {literal(verifier)}")
    async with open_sessions(roles.connection, LIMITS, lambda _: True) as sessions:
        assert await sessions.can_log_in(name, roles.password, "postgres") is False


async def test_a_role_whose_login_computes_for_long_keeps_nobody_else_of_its_server_off(
    roles: Roles, postgres: Server
) -> None:
    key = base64.b64encode(bytes(32)).decode()
    verifier = f"SCRAM-SHA-256$30000000:{base64.b64encode(bytes(16)).decode()}${key}:{key}"
    slow, slower = await roles.role("slow", "LOGIN"), await roles.role("slower", "LOGIN")
    for name in (slow, slower):
        # By hand, for ALTER ROLE would have the server compute as long.
        await roles.run(
            "postgres",
            "SET allow_system_table_mods = on",
            f"UPDATE pg_authid SET rolpassword = {literal(verifier)} WHERE rolname = {literal(name)}",  # noqa: S608 -- quoted
        )
    parameters = {
        "host": postgres.host,
        "hostaddr": postgres.host,
        "port": str(postgres.port),
        "password": postgres.password,
        "dbname": "postgres",
    }
    # What is left computing ends with a process; in this one it would be in the way of all tests that follow.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        await asyncio.wrap_future(
            process.submit(_see_that_one_keeps_nobody_off, parameters, slow, slower, postgres.user)
        )


def _see_that_one_keeps_nobody_off(
    parameters: dict[str, str], slow: str, slower: str, superuser: str
) -> None:
    def left_alone() -> int:
        return sum(thread.name == "PQconnectPoll" for thread in threading.enumerate())

    async def log_in(user: str, seconds: int = 60) -> None:
        await (await establish({**parameters, "user": user, "connect_timeout": str(seconds)})).close()

    async def see() -> None:
        with pytest.raises(TimeoutError):
            await log_in(slow, seconds=2)
        assert left_alone() == 1
        with pytest.raises(psycopg.OperationalError, match="goes on still"):
            await log_in(slow)
        await log_in(superuser)
        with pytest.raises(psycopg.OperationalError, match="takes too long to compute"):
            await log_in(slower)
        assert left_alone() == 1

    asyncio.run(see())


async def test_a_role_can_forge_neither_its_comment_nor_its_attributes(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[database], privileges=["CREATE"])
    await roles.settle(desired)
    me = quoted(desired.name)
    async with await roles.login(desired.name, database) as session:
        for attempt in (
            f"COMMENT ON ROLE {me} IS NULL",
            f"ALTER ROLE {me} CREATEDB",
            f"ALTER ROLE {me} VALID UNTIL '2000-01-01'",
            f"ALTER ROLE {me} CONNECTION LIMIT 0",
            f"ALTER ROLE {me} RENAME TO other",
        ):
            with pytest.raises(psycopg.Error):
                await session.execute(attempt.encode())
    await roles.settle(desired)


async def test_nothing_that_a_role_plants_where_it_may_create_is_run_by_the_operator(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE TABLE trodden (who name)", "GRANT INSERT ON trodden TO PUBLIC")
    planter = roles.desired("planter", [database], ["CREATE", "SELECT"])
    await roles.settle(planter)
    me = quoted(planter.name)
    trap = "BEGIN INSERT INTO public.trodden VALUES (session_user); RETURN NULL; END"
    async with await roles.login(planter.name, database) as session:
        for planted in (
            f"CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $${trap}$$",
            f"CREATE FUNCTION public.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS $${trap}$$",
            f"CREATE FUNCTION public.oideq(oid, oid) RETURNS bool LANGUAGE plpgsql AS $${trap}$$",
            "CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = public.oideq)",
            'CREATE TABLE public."x"" TO postgres; --" (id int)',
            'CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public."x"" TO postgres; --"'
            " FOR EACH STATEMENT EXECUTE FUNCTION public.trap()",
            "CREATE VIEW public.v AS SELECT public.pg_get_userbyid(1)",
            "CREATE RULE r AS ON INSERT TO public.v DO INSTEAD INSERT INTO public.trodden VALUES (session_user)",
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
            f"ALTER ROLE {me} SET search_path = public, pg_catalog",
            f"ALTER ROLE {me} SET default_transaction_read_only = on",
        ):
            await session.execute(planted.encode())
    every = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "EXECUTE"]
    other = roles.desired("other", [database], every)
    await roles.settle(other)
    await roles.settle(planter)
    assert await roles.remove(planter) is None
    assert await roles.remove(other) is None
    assert await roles.rows(database, "SELECT who FROM public.trodden") == []


async def test_what_default_privileges_gave_on_an_extension_installed_later_is_taken_back(
    roles: Roles,
) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE TABLE public.makes_the_superuser_an_owner ()")
    desired = roles.desired(scopes=[database], privileges=["EXECUTE"])
    await roles.settle(desired)
    await roles.run(database, "CREATE EXTENSION pg_stat_statements")
    planned = await roles.settle(desired)
    assert [routine for routine in planned.withheld_routines if "pg_stat_statements_reset" in routine]
    assert not [name for _, name, _ in await roles.held(database, desired.name) if "reset" in name]

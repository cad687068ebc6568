"""`hoop-operator plan` shows what a run would do to a real server, and does nothing itself."""

import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hoop_operator.crd import API_VERSION
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.operator_process import PROGRAM
from integration.roles import Roles, literal, quoted
from local import postgresql

NAMESPACE = "shop"
IN_SYNC, NOT_PLANNED, CHANGES = range(3)
ODD = quoted('odd\n-- name\\"')


class Files:
    """Objects in a file, on one server, and the command that is run on them."""

    def __init__(self, roles: Roles, directory: Path) -> None:
        self.roles = roles
        self._path = directory / "plan.yaml"
        self._resource = f"db-{roles.suffix}"
        self._plans: list[dict[str, Any]] = []

    def role(self, label: str) -> str:
        """The name of a plan's role, which the test drops in the end."""
        name = role_name(self._resource, label)
        if name not in self.roles.roles:
            self.roles.roles.append(name)
        return name

    def ask(self, name: str, *, label: str | None = None, adopt: str | None = None, **spec: Any) -> str:
        """Put a plan into the file, in place of the one of that name; return the name of its role."""
        whole = {"resourceRef": {"name": self._resource}, "role": label or name, "type": "managed", **spec}
        self._plans = [plan for plan in self._plans if plan["metadata"]["name"] != name]
        self._plans.append(self._object("HoopRolePlan", name, spec=whole))
        if adopt is not None:
            self._plans[-1]["metadata"]["annotations"] = {"hoop.dev/adopt": adopt}
        return self.role(label or name)

    def tell(self, name: str, **status: Any) -> None:
        """Give a plan the status that it has in its cluster."""
        self._named(name)["status"] = status

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        """Give a plan annotations."""
        self._named(name)["metadata"]["annotations"] = dict(annotations)

    def _named(self, name: str) -> dict[str, Any]:
        (found,) = (plan for plan in self._plans if plan["metadata"]["name"] == name)
        return found

    def plan(
        self, *more: str, from_stdin: bool = False, settings: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run the command; return its exit code, its output and its errors, in which no password may be."""
        connection = self.roles.connection
        credentials = {
            "host": connection.host,
            "port": str(connection.port),
            "username": connection.user,
            "password": connection.password,
            "dbname": connection.database,
        }
        spec = {
            "type": "database",
            "subtype": "postgres",
            "envVarsFrom": [{"secretRef": {"name": "admin"}}],
        }
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "admin"},
            "stringData": credentials,
        }
        objects = [secret, self._object("HoopResource", self._resource, spec=spec), *self._plans]
        text = yaml.safe_dump_all(objects)
        self._path.write_text(text)
        ended = subprocess.run(  # noqa: S603 -- our own program
            [PROGRAM, "plan", "-n", NAMESPACE, "-f", "-" if from_stdin else str(self._path), *more],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={"PGHOST": "nowhere.invalid", "PGOPTIONS": "-c role=nobody", **(settings or {})},
        )
        for told in (ended.stdout, ended.stderr):
            assert (connection.password or "") not in told
            assert "SCRAM-SHA-256" not in told
        return ended.returncode, ended.stdout, ended.stderr

    def _object(self, kind: str, name: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, **more}


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    roles = Roles(admin)
    yield roles
    await roles.close()


@pytest.fixture
def files(roles: Roles, tmp_path: Path) -> Files:
    return Files(roles, tmp_path)


def run_as_printed(roles: Roles, script: str, *, password: str | None) -> int:
    """Have psql run a script as the superuser, given a password or none, and return its exit code."""
    server = roles.administrator.server
    given = f"\\set password {literal(password)}\n" if password is not None else ""
    return subprocess.run(  # noqa: S603 -- PostgreSQL's own program
        [
            postgresql.programs(postgresql.DEFAULT_VERSION) / "psql",
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.host, "-p", str(server.port)),
            *("-U", server.user, "-d", "template1", "-f", "-"),
        ],
        input=given + script,
        text=True,
        check=False,
        env={"PGPASSWORD": server.password, "PGCLIENTENCODING": "UTF8"},
    ).returncode


def said_by(login: str, log: Path, offset: int) -> str:
    """What a login has sent since, as the server's log has it."""
    with log.open("rb") as whole:
        whole.seek(offset)
        entries = re.split(rb"^(?=\d{4}-)", whole.read(), flags=re.MULTILINE)
    return "".join(e.decode(errors="replace") for e in entries if f" {login}@".encode() in e)


def comments(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("--")]


@pytest.mark.parametrize("name", ["plain", "a=b", 'Zoë\'s "db"', "line\nbreak", "postgresql://x/y?host=z"])
async def test_the_script_run_as_printed_brings_the_role_there_and_then_there_is_nothing_to_do(
    roles: Roles, files: Files, name: str
) -> None:
    database = await roles.database(f"{name} {roles.suffix}")
    owner = await roles.role("owner")
    await roles.run(
        database,
        "CREATE TABLE orders (id serial)",
        f"CREATE TABLE {ODD} (id int); ALTER TABLE {ODD} OWNER TO {quoted(owner)}",
        f"GRANT CREATE ON SCHEMA public TO {quoted(owner)}",
        "CREATE FUNCTION fun(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    role = files.ask(
        "app", scopes=[quoted(database)], privileges=["SELECT", "INSERT", "EXECUTE"], sourceRole="ignored"
    )
    files.ask("ext", type="external", sourceRole="pg_read_all_data")
    code, script, errors = files.plan()
    assert (code, errors) == (CHANGES, "")
    head = f"-- HoopRolePlan shop/app: role {role} on HoopResource shop/db-{roles.suffix} (127.0.0.1:"
    assert script.startswith(head)
    assert f", PostgreSQL {roles.version}." in script.splitlines()[0]
    assert run_as_printed(roles, script, password=None) != 0
    assert not await roles.exists(role)

    assert run_as_printed(roles, script, password=roles.password) == 0
    assert {("relation", "orders", "SELECT"), ("schema", "public", "USAGE")} <= await roles.held(
        database, role
    )
    code, script, errors = files.plan(from_stdin=True)
    assert (code, errors) == (IN_SYNC, "")
    assert [line for line in script.splitlines() if line and line not in comments(script)] == []
    assert script.count("-- nothing to do") == 2
    await (await roles.login(role, database)).close()

    # What is extra, also from another grantor's hand and on single columns, is shown and goes as well.
    await roles.run(
        database,
        f"GRANT DELETE ON orders TO {quoted(role)} WITH GRANT OPTION",
        f"SET ROLE {quoted(owner)}",
        f"GRANT UPDATE (id) ON {ODD} TO {quoted(role)}",
    )
    code, script, _ = files.plan()
    assert code == CHANGES
    assert script.splitlines()[-1].endswith(
        "with changes: 1; nothing to do: 1; cannot be applied: 0; statements: 2"
    )
    assert run_as_printed(roles, script, password=roles.password) == 0
    assert files.plan()[0] == IN_SYNC


@pytest.mark.version_independent
async def test_the_command_only_reads_and_one_snapshot_serves_all_plans_of_a_resource(
    roles: Roles, files: Files
) -> None:
    login = await roles.role("admin", "SUPERUSER")
    database = await roles.database()
    await roles.act_as(login, database)
    names = [files.ask(label, scopes=[database], privileges=["SELECT"]) for label in ("a", "b", "c")]
    log = roles.administrator.server.log
    offset = log.stat().st_size
    code, script, _ = files.plan()
    assert code == CHANGES
    assert all(f'CREATE ROLE "{name}"' in script for name in names)
    said = said_by(login, log, offset)
    transactions = re.findall(r"statement: BEGIN ISOLATION LEVEL ([^,]+, [^,]+)", said)
    assert transactions == ["REPEATABLE READ, READ ONLY"] * 3  # the admin, the server, its one database
    assert not re.search(r"\b(?:CREATE|ALTER|GRANT|REVOKE|COMMENT|INSERT|UPDATE|DELETE)\b ", said)


@pytest.mark.version_independent
async def test_the_checksum_of_what_waits_for_approval_is_told_where_the_last_apply_is_known(
    roles: Roles, files: Files
) -> None:
    database = await roles.database()
    files.ask("app", scopes=[database], privileges=["SELECT"], approval="Manual")
    code, script, _ = files.plan()
    assert code == CHANGES
    assert comments(script)[1] == (
        "-- waits for approval: nothing is applied until the annotation hoop.dev/approve has the checksum of "
        "status.plan"
    )
    files.tell("app", lastAppliedSid="s-1")
    (told,) = re.findall(r"^-- waits for approval: .* hoop.dev/approve=(\w+)$", files.plan()[1], re.MULTILINE)
    files.annotate("app", {"hoop.dev/approve": told})
    assert (
        f"-- approved: the annotation hoop.dev/approve has the checksum of this plan, {told}"
        in files.plan()[1]
    )


@pytest.mark.version_independent
async def test_what_stands_against_a_plan_is_shown_beside_the_revokes_that_are_made_all_the_same(
    roles: Roles, files: Files
) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE TABLE orders (id int)")
    role = files.ask("app", scopes=[database], privileges=["SELECT", "INSERT"])
    files.ask("fine", scopes=[database], privileges=["SELECT"])
    assert run_as_printed(roles, files.plan()[1], password=roles.password) == 0
    files.ask("app", scopes=[database, f"{database}.gone", "nowhere"], privileges=["SELECT"])
    code, script, errors = files.plan()
    assert (code, errors) == (NOT_PLANNED, "")
    assert [line.partition(";")[0] for line in comments(script)][1:4] == [
        '-- cannot be applied: DatabaseNotFound: database "nowhere" does not exist',
        f'-- cannot be applied: SchemaNotFound: schema "gone" does not exist in database "{database}"',
        "-- what is extra is revoked all the same:",
    ]
    assert f'REVOKE INSERT ON ALL TABLES IN SCHEMA "public" FROM "{role}";' in script.splitlines()
    assert "GRANT" not in script
    assert "nothing to do: 1; cannot be applied: 1;" in comments(script)[-1]


@pytest.mark.version_independent
async def test_a_role_that_is_not_the_plans_is_a_conflict(roles: Roles, files: Files) -> None:
    database = await roles.database()
    taken = files.ask("taken", scopes=[database], privileges=["SELECT"])
    await roles.run(database, f"CREATE ROLE {quoted(taken)}")
    files.ask("one", label="shared", scopes=[database], privileges=["SELECT"])
    shared = files.ask("two", label="shared", scopes=[database], privileges=["INSERT"])
    code, script, _ = files.plan()
    assert code == NOT_PLANNED
    assert f'-- cannot be applied: RoleConflict: role "{taken}" exists already' in script
    assert f'RoleConflict: role "{shared}" is what HoopRolePlan shop/one asks for too' in script
    assert run_as_printed(roles, script, password=roles.password) == 0
    code, script, _ = files.plan()
    assert code == NOT_PLANNED
    assert f'RoleConflict: role "{shared}" already belongs to the plan default/shop/one' in script
    assert "already belongs to the plan default/shop/one" in files.plan(settings={"HOOP_INSTANCE": "blue"})[1]


@pytest.mark.version_independent
async def test_a_role_that_is_to_be_taken_over_is_noted_with_the_comment_that_it_loses(
    roles: Roles, files: Files
) -> None:
    found = files.ask("found", adopt="true", scopes=["postgres"], privileges=["EXECUTE"])
    left = files.ask("new", label="left", adopt="shop/old", scopes=["postgres"], privileges=["EXECUTE"])
    for role, comment in ((found, "of the\nteam"), (left, "hoop.dev/role-plan: default/shop/old")):
        await roles.run("postgres", f"CREATE ROLE {quoted(role)} LOGIN")
        await roles.run("postgres", f"COMMENT ON ROLE {quoted(role)} IS {literal(comment)}")
    code, script, _ = files.plan()
    assert code == CHANGES
    assert (
        f'-- note: role "{found}", which nobody claimed, is taken over; its comment was: of the\\nteam'
        in script
    )
    assert (
        f'-- note: role "{left}" is taken over from the plan shop/old, if that does not exist any more'
        in script
    )
    assert f"COMMENT ON ROLE {quoted(left)} IS 'hoop.dev/role-plan: default/shop/new';" in script
    files.ask("old", scopes=["postgres"], privileges=["EXECUTE"])
    code, script, _ = files.plan()
    assert code == NOT_PLANNED
    assert "RoleConflict" in script
    assert "HoopRolePlan shop/old still exists" in script


async def test_an_admin_who_may_not_do_it_gets_the_sql_that_an_administrator_has_to_run(
    roles: Roles, files: Files
) -> None:
    login = await roles.role("admin", "CREATEROLE")
    database = await roles.database()
    await roles.run(database, "CREATE TABLE orders (id int)")
    await roles.act_as(login, database)
    files.ask("app", scopes=[database], privileges=["SELECT"])
    code, script, _ = files.plan()
    remedies = re.findall(
        r"^-- cannot be applied: InsufficientPrivilege: .* run: (.*)$", script, re.MULTILINE
    )
    assert code == NOT_PLANNED
    assert remedies
    await roles.run(database, *remedies)
    assert files.plan()[0] == CHANGES


@pytest.mark.version_independent
@pytest.mark.parametrize(
    ("change", "settings", "told"),
    [
        ({"port": 1}, {}, "ServerUnreachable: 127.0.0.1:1: "),
        ({"password": "pa55word"}, {}, "AuthenticationFailed: "),
        ({}, {"HOOP_ALLOWED_HOSTS": '["*.example.com"]'}, "CredentialsInvalid: HOST "),
    ],
)
async def test_a_server_that_cannot_be_asked_is_told(
    roles: Roles, files: Files, change: dict[str, Any], settings: dict[str, str], told: str
) -> None:
    await roles.act_as(await roles.role("admin", "SUPERUSER"), "postgres")
    roles.connection = replace(roles.connection, **change)
    role = files.ask("app", scopes=["postgres"], privileges=["SELECT"])
    code, script, _ = files.plan(settings=settings)
    assert code == NOT_PLANNED
    assert f"role {role} on HoopResource" in script
    assert (
        f"-- cannot be applied: ResourceNotReady: HoopResource db-{roles.suffix} is not ready: {told}"
        in script
    )


@pytest.mark.version_independent
async def test_an_object_that_follows_no_schema_is_named_and_no_server_is_asked(
    roles: Roles, files: Files, tmp_path: Path
) -> None:
    files.ask("app", scopes=["postgres"], privileges=["SELEKT"])
    files.ask("fine", scopes=["postgres"], privileges=["SELECT"])
    code, script, errors = files.plan("-f", str(tmp_path / "absent.yaml"))
    assert (code, script, errors) == (NOT_PLANNED, "", f"{tmp_path}/absent.yaml: No such file or directory\n")
    code, script, errors = files.plan()
    assert (code, script) == (NOT_PLANNED, "")
    assert errors.startswith(
        f"{tmp_path}/plan.yaml: HoopRolePlan shop/app: spec.privileges.0: Input should be 'SELECT'"
    )

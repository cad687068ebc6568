"""`kubectl hoop import`: fed back, its plans change on the server what their comments say, and nothing else."""

import functools
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import pytest
import yaml

from hoop_operator.reconcile.dry_run import preview_plans
from hoop_operator.reconcile.manifests import read_manifests
from hoop_operator.reconcile.script import printable_sql
from hoop_operator.settings import Settings
from integration.administrator import Administrator
from integration.plugin import PROGRAM
from integration.roles import Roles, fill, quoted
from kubectl_hoop.changes import diff, of_statements

RESOURCE = "my-postgres"


DRAWN = 12
ATTRIBUTES: tuple[LiteralString, ...] = (
    *("LOGIN", "LOGIN", "LOGIN NOINHERIT", "LOGIN CREATEROLE", "LOGIN REPLICATION BYPASSRLS"),
    "LOGIN VALID UNTIL '2001-01-01'",
)
GRANTS = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {to}",
    "GRANT INSERT ON plain TO {to} WITH GRANT OPTION",
    "GRANT UPDATE (id) ON second TO {to}",
    "GRANT TRIGGER, REFERENCES, TRUNCATE ON second TO {to}",
    "GRANT SELECT ON SEQUENCE plain_id_seq TO {to}",
    "GRANT EXECUTE ON PROCEDURE proc(int) TO {to}",
    "GRANT USAGE ON SCHEMA books TO {to}",
    "GRANT CREATE ON SCHEMA books TO {to}",
    "GRANT TEMPORARY ON DATABASE {database} TO {to} WITH GRANT OPTION",
    "GRANT USAGE ON FOREIGN SERVER nowhere TO {to}",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT DELETE ON TABLES TO {to}",
    "ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO {to}",
    "GRANT {group} TO {to} WITH ADMIN OPTION",
)


class Document(NamedTuple):
    """A document of the output: its comments, and the object, if there is one."""

    comments: list[str]
    body: dict[str, Any] | None

    @property
    def changes(self) -> list[str]:
        """What the comments say that is changed on the server."""
        return [text.removeprefix("  ") for text in self.comments if re.match("  ([-+~] |@@)", text)]

    @property
    def rename(self) -> str:
        """The SQL that gives the role the name of its plan."""
        (found,) = (text.strip() for text in self.comments if text.startswith("  ALTER ROLE"))
        return found


def import_from(roles: Roles, *arguments: str) -> dict[str, Document]:
    """Import from the test's server; the documents of the test's own roles, by role."""
    connection = roles.connection
    uri = f"postgresql://{connection.user}@{connection.host}:{connection.port}/postgres?sslmode=disable"
    ended = subprocess.run(  # noqa: S603 -- our own program
        [PROGRAM, "import", RESOURCE, "-n", "shop", "--uri", uri, "--password-stdin", *arguments],
        input=f"{connection.password}\n",
        capture_output=True,
        text=True,
        check=False,
        env={"KUBECONFIG": "/nonexistent"},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (connection.password or "") not in ended.stdout
    found = {}
    for document in _documents(ended.stdout):
        for role in roles.roles:
            if document.comments and document.comments[0].startswith(f"Role {printable(quoted(role))}"):
                found[role] = document
    return found


def _documents(text: str) -> Iterator[Document]:
    for block in re.split(r"^(?:---\n|(?=# Role ))", text, flags=re.MULTILINE):
        comments = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("#")]
        if block.strip():
            yield Document(comments, yaml.safe_load(block))


@pytest.fixture
async def server(roles: Roles, admin: Administrator) -> Roles:
    """Roles of every sort that people make, on two databases."""
    del admin
    a, b = await roles.database(), await roles.database()
    for database in (a, b):
        await fill(roles, database)
        await roles.run(
            database,
            "CREATE SCHEMA books",
            "CREATE TABLE books.pages (id int)",
            "CREATE TABLE second (id int)",
        )
    group = quoted(await roles.role("group"))
    other = quoted(await roles.role("other"))
    await roles.run(a, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {group}")
    exact = quoted(await roles.role("exact", "LOGIN"))
    await roles.run("postgres", f"GRANT CONNECT ON DATABASE {quoted(a)} TO {exact}")
    await roles.run(
        a,
        f"GRANT USAGE ON SCHEMA books TO {exact}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA books TO {exact}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA books GRANT SELECT ON TABLES TO {exact}",
    )
    member = quoted(await roles.role("member", "LOGIN"))
    await roles.run("postgres", f"GRANT {group} TO {member}")
    mixed = quoted(await roles.role('Mixed "odd"\n', "LOGIN CREATEDB CONNECTION LIMIT 3"))
    await roles.run(
        a,
        f"GRANT SELECT, UPDATE ON plain TO {mixed}",
        f"GRANT SELECT (note) ON plain TO {mixed}",
        f"GRANT EXECUTE ON FUNCTION fun(int) TO {mixed}",
        f"CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO {mixed}",
    )
    await roles.run(b, f"GRANT INSERT ON books.pages TO {mixed}", f"GRANT CREATE ON SCHEMA public TO {mixed}")
    await roles.run("postgres", f"GRANT {group} TO {mixed}")
    torn = quoted(await roles.role("torn", "LOGIN"))
    await roles.run("postgres", f"GRANT {group}, {other} TO {torn}")
    await roles.role("bare", "LOGIN")
    draw = random.Random(0)  # noqa: S311 -- the same worlds every time
    for number in range(DRAWN):
        drawn = quoted(await roles.role(f"drawn{number}", draw.choice(ATTRIBUTES)))
        for database in (a, b):
            for grant in draw.sample(GRANTS, draw.randint(0, 4)):
                await roles.run(database, grant.format(to=drawn, database=quoted(database), group=group))
    await roles.role("super", "LOGIN SUPERUSER")
    return roles


async def test_what_is_imported_changes_what_its_comments_say_and_nothing_else(server: Roles) -> None:
    found = import_from(server)
    by_label = {role.removesuffix(f"_{server.suffix}"): document for role, document in found.items()}
    drawn = {label for label in by_label if label.startswith("drawn")}
    assert len(drawn) == DRAWN
    assert sum(by_label[label].body is not None for label in drawn) > DRAWN // 2
    assert {label: by_label[label].body is not None for label in by_label.keys() - drawn} == {
        "exact": True,
        "member": True,
        'Mixed "odd"\n': True,
        "torn": False,
        "bare": False,
        "super": False,
    }
    assert "a plan knows one source role only" in by_label["torn"].comments[1]
    assert "it is a superuser" in by_label["super"].comments[1]
    mixed = by_label['Mixed "odd"\n'].body
    assert mixed is not None
    a, b = server.databases
    assert sorted(mixed["spec"]["scopes"]) == sorted([f"{a}.public", f"{b}.books", f"{b}.public"])
    assert mixed["spec"]["privileges"] == ["SELECT", "INSERT", "UPDATE", "CREATE", "EXECUTE"]
    assert mixed["spec"]["approval"] == "Manual"
    member = by_label["member"].body
    assert member is not None
    assert (member["spec"]["type"], member["spec"]["sourceRole"]) == ("external", f"group_{server.suffix}")

    # A role that has exactly what a plan means is taken over by its comment alone, and so needs no approval.
    for label in ("exact", "member"):
        body = by_label[label].body
        assert body is not None
        assert "approval" not in body["spec"]
        (place, comment) = by_label[label].changes
        assert place == "@@ the server @@"
        assert comment.startswith("~ COMMENT ON ROLE")

    connection = server.connection
    secret = {
        "host": connection.host,
        "port": str(connection.port),
        "username": connection.user,
        "password": connection.password,
        "dbname": "postgres",
    }
    objects = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "admin"}, "stringData": secret},
        {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopResource",
            "metadata": {"name": RESOURCE},
            "spec": {
                "type": "database",
                "subtype": "postgres",
                "envVarsFrom": [{"secretRef": {"name": "admin"}}],
            },
        },
    ]
    told: dict[str, list[str]] = {}
    renamed: dict[str, str] = {}
    for role, document in found.items():
        if document.body is None:
            continue
        await server.run("postgres", document.rename)
        (name,) = re.findall('"(hoopdev_[^"]*)"', document.rename)
        server.roles.append(name)
        renamed[printable_sql(quoted(role))] = quoted(name)
        objects.append(document.body)
        told[document.body["metadata"]["name"]] = document.changes
    # A role that may create objects is named in the default privileges of others, too.
    told = {
        plan: [
            functools.reduce(lambda text, names: text.replace(*names), renamed.items(), text)
            for text in changes
        ]
        for plan, changes in told.items()
    }
    manifests = read_manifests({"imported": yaml.safe_dump_all(objects)}, "shop")
    assert manifests.problems == []
    previews = await preview_plans(manifests, Settings())
    assert {preview.plan.key.name: preview.problems for preview in previews} == {name: [] for name in told}
    assert {
        preview.plan.key.name: sorted(text for text, _ in diff(of_statements(preview.statements)))
        for preview in previews
    } == {name: sorted(changes) for name, changes in told.items()}


def printable(text: str) -> str:
    """A name as comments have it."""
    return text.replace("\n", "\\n")


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    ended = subprocess.run(  # noqa: S603 -- our own program
        [PROGRAM, "import", RESOURCE, "--uri", "postgresql://admin:hunter2@db.example.com/postgres"],
        capture_output=True,
        text=True,
        check=False,
        env={"KUBECONFIG": str(tmp_path)},
    )
    assert ended.returncode == 2
    assert "leave the password out" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout

"""`python -m local.demo`: the operator's main job on the local stack, told step by step, every claim checked."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import psycopg
import yaml
from rich.console import Console

from local import cluster, postgresql
from local.__main__ import DIRECTORY, up
from local.errors import StackError
from local.files import locked, write_private
from local.postgresql import Server
from local.progress import duration, step
from local.stack import CHECKOUT, Stack

NAMESPACE = "hoop-demo"
SAMPLES = Path("deploy/samples")
WAIT_SECONDS = 30
COMMAND_SECONDS = 60

STATEMENTS = """-o jsonpath='{range .status.plan.statements[*]}{@}{"\\n"}{end}'"""
"""Has `kubectl get hrp` print the SQL that was last planned, one statement per line."""

console = Console(highlight=False)


class CheckFailed(Exception):
    """Something is not as the demo claims; the message says what was expected and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected: {expected}\nseen: {seen.strip() or 'nothing'}")


class Demo:
    """Commands that are shown, run and checked, and what the steps have to remember of each other.

    Parameters
    ----------
    stack
        Control plane, PostgreSQL and operator, all of them running.
    server
        The stack's PostgreSQL.
    """

    def __init__(self, stack: Stack, server: Server) -> None:
        self.stack = stack
        self.server = server
        self.environment = stack.write_environment(server)
        self.directory = stack.directory / "demo"
        self.log_size_before = server.log.stat().st_size
        self.passwords = {server.password}
        self.role = ""
        self.checks = 0

    def file(self, name: str) -> Path:
        """Return one of the demo's own files, as a command names it."""
        return shown(self.directory / name)

    def run(self, command: str, *, exits: Collection[int] = (0,)) -> str:
        """Run a line of shell, show it and what it prints, and return that.

        Raises
        ------
        CheckFailed
            It ended with another code than one of `exits`.
        """
        console.out(f"\n$ {command}", style="bold")
        try:
            done = subprocess.run(
                ["sh", "-c", f". {shlex.quote(str(self.environment))}\n{command}"],
                cwd=CHECKOUT,
                env={
                    name: value for name, value in os.environ.items() if not name.startswith(("PG", "KUBE"))
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CheckFailed(
                f"the command ends within {COMMAND_SECONDS} s: {command}", "it still ran"
            ) from None
        if output := done.stdout.rstrip():
            console.out(output, style="dim")
        if done.returncode not in exits:
            wanted = " or ".join(map(str, exits))
            raise CheckFailed(f"exit code {wanted} of: {command}", f"exit code {done.returncode}")
        return done.stdout

    def check(self, claim: str, holds: bool, seen: str) -> None:
        """Say that a claim holds.

        Raises
        ------
        CheckFailed
            It does not; the message holds what was `seen` instead.
        """
        if not holds:
            raise CheckFailed(claim, seen)
        self.checks += 1
        console.out(f"ok: {claim}", style="green")

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the demo's namespace without showing it."""
        return cluster.kubectl(self.stack.kubeconfig, f"--namespace={NAMESPACE}", *arguments)

    def as_admin(self, database: str, sql: str) -> str:
        """Run SQL as the administrator."""
        return self.run(f'psql -X -d {database} -c "{sql}"')

    def as_role(
        self,
        sql: str,
        *,
        role: str = "",
        database: str = "mydb",
        passfile: str = "ro.pgpass",
        exits: Collection[int] = (0,),
    ) -> str:
        """Run SQL as the role of a plan, `ro` unless another is named, with the password from a file."""
        # libpq takes the password from PGPASSFILE only where PGPASSWORD is empty; .local/env sets the admin's.
        login = f"PGPASSWORD= PGPASSFILE={self.file(passfile)} psql -X -U {role or self.role} -d {database}"
        return self.run(f'{login} -c "{sql}"', exits=exits)

    def fetch_pgpass(self, plan: str) -> None:
        """Put the `pgpass` of a plan's Secret into a file, and remember the password: no log may hold it."""
        secret = f"{plan}-credentials"
        encoded = self.kubectl("get", "secret", secret, "--output=jsonpath={.data.password}")
        self.passwords.add(base64.b64decode(encoded).decode())
        template = shlex.quote("{{.data.pgpass | base64decode}}")
        self.run(
            f"umask 077; kubectl -n {NAMESPACE} get secret {secret} -o go-template={template}"
            f" > {self.file(f'{plan}.pgpass')}"
        )

    def settled(self, plan: str) -> dict[str, Any]:
        """Wait until the operator has carried out the present spec of a plan; return the plan's status.

        Raises
        ------
        CheckFailed
            It is not done in time; the message holds the plan's conditions.
        """
        found: dict[str, Any] = {}

        def is_done() -> bool:
            body = json.loads(self.kubectl("get", "hrp", plan, "--output=json"))
            found.clear()
            found.update({"conditions": []} | body.get("status", {}))
            ready = {"type": "Ready", "status": "True"}
            return found.get("observedGeneration") == body["metadata"]["generation"] and any(
                ready.items() <= condition.items() for condition in found["conditions"]
            )

        if not comes_true(is_done):
            lines = (
                f"{condition['type']}={condition['status']} {condition['reason']} {condition['message']}"
                for condition in found["conditions"]
            )
            raise CheckFailed(f"HoopRolePlan {plan} is Ready within {WAIT_SECONDS} s", "\n".join(lines))
        return found


def shown(path: Path) -> Path:
    """Return a path as a person types it in the checkout."""
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def heading(number: int, title: str) -> None:
    """Begin a step."""
    console.out(f"\n{number}. {title}", style="bold cyan")


def comes_true(condition: Callable[[], bool], *, seconds: float = WAIT_SECONDS) -> bool:
    """Wait until a condition holds, and say whether it did in time."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def clear(demo: Demo) -> None:
    """Remove what an earlier demo left, however far it came; leave an empty namespace and no databases."""
    with step("Clearing away what an earlier demo left"):
        shutil.rmtree(demo.directory, ignore_errors=True)
        demo.directory.mkdir(mode=0o700)
        phase = demo.kubectl(
            "get", "namespace", NAMESPACE, "--ignore-not-found", "--output=jsonpath={.status.phase}"
        )
        if phase:
            delete_objects(demo)
        if phase == "Terminating":
            demo.kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", f"--timeout={WAIT_SECONDS}s")
        if phase != "Active":
            demo.kubectl("create", "namespace", NAMESPACE)
        with psycopg.connect(
            host=demo.server.host,
            port=demo.server.port,
            user=demo.server.user,
            password=demo.server.password,
            dbname=demo.server.database,
            autocommit=True,
        ) as session:
            session.execute("DROP DATABASE IF EXISTS mydb WITH (FORCE)")
            session.execute("DROP DATABASE IF EXISTS otherdb WITH (FORCE)")
            session.execute("DROP ROLE IF EXISTS warehouse")


def delete_objects(demo: Demo) -> None:
    """Delete what there is in the demo's namespace, also where the server that it knew is gone."""
    demo.kubectl("delete", "hrp", "--all", "--wait=false")
    if not comes_true(lambda: not demo.kubectl("get", "hrp", "--output=name"), seconds=10):
        demo.kubectl("annotate", "hrp", "--all", "--overwrite", "hoop.dev/abandon=true")
    for kind in ("hrp", "hres", "secrets", "events"):
        demo.kubectl("delete", kind, "--all", f"--timeout={WAIT_SECONDS}s")


def fill_databases(demo: Demo) -> None:
    """Two databases with tables, views and functions, some of them a second owner's."""
    clear(demo)
    demo.run("psql -X -c 'CREATE ROLE warehouse' -c 'CREATE DATABASE mydb OWNER warehouse'")
    demo.run("psql -X -c 'CREATE DATABASE otherdb'")
    demo.run("pgbench --initialize --init-steps=tgvp --quiet mydb")
    demo.run("pgbench --initialize --init-steps=tgvp --quiet otherdb")
    demo.run("psql -X -q -f deploy/local/demo.sql")
    listing = demo.run("psql -X -d mydb -c '\\d'")
    found = {tuple(map(str.strip, line.split("|")[2:])) for line in listing.splitlines()}
    expected = {(kind, owner) for kind in ("table", "view") for owner in ("postgres", "warehouse")}
    demo.check("there are tables and views of two owners", expected <= found, listing)


def apply_objects(demo: Demo) -> None:
    """The server's admin credentials, the server, and the two roles that are wanted on it."""
    sample = yaml.safe_load((CHECKOUT / SAMPLES / "admin-secret.yaml").read_text())
    server = demo.server
    sample["stringData"] = {
        "host": server.host,
        "port": str(server.port),
        "username": server.user,
        "password": server.password,
    }
    write_private(demo.directory / "admin-secret.yaml", yaml.safe_dump(sample))
    console.out(f"{SAMPLES / 'admin-secret.yaml'}, with host, port and password of this server:")
    # A client-side apply would copy the password into an annotation.
    demo.run(f"kubectl -n {NAMESPACE} apply --server-side -f {demo.file('admin-secret.yaml')}")
    demo.run(f"cat {SAMPLES / 'my-postgres.yaml'}")
    demo.run(f"kubectl -n {NAMESPACE} apply -f {SAMPLES / 'my-postgres.yaml'}")


def show_ready(demo: Demo) -> None:
    """The operator registers the server and carries the plans out."""
    demo.role = demo.settled("ro")["role"]
    demo.settled("reader")
    listing = demo.run(f"kubectl -n {NAMESPACE} get hres,hrp")
    demo.check("the resource and both plans are ready", listing.count(" True ") == 3, listing)
    keys = demo.run(f"kubectl -n {NAMESPACE} describe secret ro-credentials")
    demo.check("the credentials are in a Secret", "password:" in keys and "pgpass:" in keys, keys)


def show_statements(demo: Demo) -> None:
    """The difference between what was asked and what was there, as the plan's status has it."""
    planned = demo.run(f"kubectl -n {NAMESPACE} get hrp ro {STATEMENTS}")
    demo.check(
        "tables that exist, and those to come, in both databases",
        all(
            f"/* {database} */ {words}" in planned
            for database in ("mydb", "otherdb")
            for words in ("GRANT INSERT, SELECT ON ALL TABLES", "ALTER DEFAULT PRIVILEGES")
        ),
        planned,
    )


def log_in(demo: Demo) -> None:
    """An application logs in with what is in the Secret."""
    demo.fetch_pgpass("ro")
    rows = demo.as_role("SELECT current_user, id, article FROM shipments")
    demo.check(f"{demo.role} may SELECT", demo.role in rows and "(2 rows)" in rows, rows)
    answer = demo.as_role("INSERT INTO shipments (article) VALUES ('rocket') RETURNING id")
    demo.check("it may INSERT, also with a number from a sequence", "INSERT 0 1" in answer, answer)
    rows = demo.as_role("SELECT * FROM returns", database="otherdb")
    demo.check("it may SELECT in the other database", "anvil" in rows, rows)
    refuse_delete(demo)
    demo.fetch_pgpass("reader")
    rows = demo.as_role(
        "SELECT current_user, count(*) FROM pgbench_accounts",
        role=demo.settled("reader")["role"],
        passfile="reader.pgpass",
    )
    demo.check("the role of the external plan reads as a member of pg_read_all_data", "100000" in rows, rows)


def refuse_delete(demo: Demo) -> None:
    """The server refuses what was not asked for."""
    answer = demo.as_role("DELETE FROM shipments WHERE article = 'anvil'", exits=(1,))
    demo.check("it may not DELETE", "permission denied for table shipments" in answer, answer)


def create_later(demo: Demo) -> None:
    """Tables that either owner creates now are covered already: the operator has nothing to do."""
    sid_before = demo.settled("ro")["sid"]
    demo.as_admin("mydb", "CREATE TABLE invoices AS SELECT 7 AS id, 'paid' AS state")
    demo.as_admin("mydb", "SET ROLE warehouse; CREATE TABLE parcels AS SELECT 8 AS id, 'lost' AS state")
    rows = demo.as_role("SELECT * FROM invoices")
    demo.check("it may SELECT from a new table of the administrator", "paid" in rows, rows)
    rows = demo.as_role("SELECT * FROM parcels")
    demo.check("it may SELECT from a new table of the second owner", "lost" in rows, rows)
    sid = demo.settled("ro")["sid"]
    demo.check("no run of the plan was needed for that", sid == sid_before, f"run {sid}, before {sid_before}")


def change_privileges(demo: Demo) -> None:
    """DELETE and CREATE are added to the object, used, and taken away again."""
    ask_for(demo, "SELECT", "INSERT", "DELETE", "CREATE")
    answer = demo.as_role("DELETE FROM shipments WHERE article = 'anvil'")
    demo.check("it may DELETE now", "DELETE 1" in answer, answer)
    answer = demo.as_role("CREATE TABLE drafts AS SELECT article FROM shipments")
    demo.check("it may create a table of its own now", "SELECT 2" in answer, answer)
    ask_for(demo, "SELECT", "INSERT")
    refuse_delete(demo)


def ask_for(demo: Demo, *privileges: str) -> None:
    """Change the privileges in the object, and show what is planned for that."""
    patch = json.dumps({"spec": {"privileges": privileges}})
    demo.run(f"kubectl -n {NAMESPACE} patch hrp ro --type=merge -p {shlex.quote(patch)}")
    demo.settled("ro")
    demo.run(f"kubectl -n {NAMESPACE} get hrp ro {STATEMENTS}")


def rotate(demo: Demo) -> None:
    """A new password, on the server and in the Secret."""
    demo.run(f"cp -p {demo.file('ro.pgpass')} {demo.file('old.pgpass')}")
    patch = '{"spec": {"rotatePassword": true}}'
    demo.run(f"kubectl -n {NAMESPACE} patch hrp ro --type=merge -p {shlex.quote(patch)}")
    demo.settled("ro")
    answer = demo.as_role("SELECT current_user", passfile="old.pgpass", exits=(2,))
    demo.check("the old password is refused", "password authentication failed" in answer, answer)
    demo.fetch_pgpass("ro")
    rows = demo.as_role("SELECT current_user")
    demo.check("the new password works", demo.role in rows, rows)


def delete_plan(demo: Demo) -> None:
    """The role goes with its object; what it owned stays."""
    demo.run(f"kubectl -n {NAMESPACE} delete hrp ro --timeout={WAIT_SECONDS}s")
    rows = demo.as_admin("mydb", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'hoopdev_my_postgres_%'")
    demo.check("the role is gone", demo.role not in rows and "(1 row)" in rows, rows)
    answer = demo.as_role("SELECT current_user", exits=(2,))
    demo.check("nobody can log in as it", "password authentication failed" in answer, answer)
    rows = demo.as_admin(
        "mydb",
        "SELECT tableowner, article FROM pg_tables, drafts WHERE tablename = 'drafts'",
    )
    kept = "(2 rows)" in rows and "warehouse" in rows
    demo.check("its table is still there, the owner of the database has it now", kept, rows)
    secrets = demo.run(f"kubectl -n {NAMESPACE} get secrets")
    demo.check("its Secret is gone", "ro-credentials" not in secrets, secrets)


def search_logs(demo: Demo) -> None:
    """PostgreSQL logs every statement; no password of this demo is there, nor in any other place."""
    found = demo.run(
        f'tail -c +{demo.log_size_before + 1} "$PGLOG"'
        f""" | grep -a -o 'ALTER ROLE "{demo.role}" PASSWORD .\\{{32\\}}' | tail -n 1"""
    )
    demo.check("the log has what the server was sent: a SCRAM verifier", "SCRAM-SHA-256$" in found, found)
    count = len(demo.passwords)
    claim = "four passwords were in use: the administrator's, two of ro, one of reader"
    demo.check(claim, count == 4, f"{count} passwords")
    passwords = demo.file("passwords")
    write_private(demo.directory / "passwords", "".join(f"{password}\n" for password in demo.passwords))
    search = f"grep -a -c -F -f {passwords}"  # exits with 1 where no line matches
    counts = demo.run(f'{search} "$PGLOG" {shown(demo.stack.operator_log)}', exits=(0, 1))
    in_none = [line.rpartition(":")[2] for line in counts.splitlines()] == ["0", "0"]
    demo.check("none of them is in the log of PostgreSQL or of the operator", in_none, counts)
    hits = demo.run(f"kubectl -n {NAMESPACE} get events,hres,hrp -o yaml | {search}", exits=(0, 1))
    demo.check("none of them is in an event, a spec or a status", hits.strip() == "0", hits)


STEPS = (
    ("Two databases, with objects of two owners", fill_databases),
    ("The server and two roles, as Kubernetes objects", apply_objects),
    ("The operator has carried them out", show_ready),
    ("The SQL that it planned for ro", show_statements),
    ("A login with the generated Secret", log_in),
    ("Tables created later", create_later),
    ("Privileges added in the object, and taken away again", change_privileges),
    ("A new password", rotate),
    ("The object is deleted", delete_plan),
    ("The logs", search_logs),
)


def tell(stack: Stack, server: Server) -> None:
    """Tell what the operator does, on a stack that runs; `mydb` and `otherdb` on the server are made anew.

    Raises
    ------
    CheckFailed
        A claim did not hold.
    StackError
        kubectl failed.
    """
    with locked(stack.directory / "demo.lock"):
        demo = Demo(stack, server)
        for number, (title, tell_step) in enumerate(STEPS, start=2):
            heading(number, title)
            tell_step(demo)
        shutil.rmtree(demo.directory)
    console.out(f"\nAll {demo.checks} checks hold.", style="bold green")


def main() -> int:
    """Start the stack, tell the demo, and say how to go on; return the exit code."""
    began = time.monotonic()
    stack = Stack(DIRECTORY)
    version = os.environ.get("PG") or postgresql.DEFAULT_VERSION
    environment = shown(DIRECTORY / "env")
    try:
        heading(1, "The stack (make up)")
        up()
        console.out(f"Every command from here on runs after `. {environment}`.")
        tell(stack, stack.postgres(version))
    except (CheckFailed, StackError, psycopg.Error) as error:
        print(f"\nThe demo failed.\n{error}", file=sys.stderr)
        print(
            f"The logs: {shown(DIRECTORY)}/*.log, first of all {shown(stack.operator_log)}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the next `make demo` begins anew, `make down` stops the stack", file=sys.stderr)
        return 130
    console.out(
        f"The demo took {duration(time.monotonic() - began)}. The stack goes on running:\n"
        f"  . {environment}    # then kubectl, kubectl hoop, hoop-operator and psql work as administrators\n"
        f"  kubectl -n {NAMESPACE} get hres,hrp\n"
        f"  kubectl -n {NAMESPACE} apply -f {SAMPLES / 'my-postgres.yaml'}    # ro comes back\n"
        f"  kubectl explain hooproleplans.spec    # every field; {SAMPLES / 'annotated.yaml'} has examples\n"
        f"  make down    # stops it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

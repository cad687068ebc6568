"""A psql session as the role of a plan; the password is in a file that only the person can read, and gone with it."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click

from hoop_operator.cluster.secrets import Secret, read_secret
from hoop_operator.credentials.connection import SslMode
from hoop_operator.credentials.output import output_data
from hoop_operator.errors import AccessDenied
from hoop_operator.reconcile.objects import Key
from kubectl_hoop.client import Cluster
from kubectl_hoop.objects import read_plan
from kubectl_hoop.options import WRONG, by_another_way, note, on_cluster, plan_name
from kubectl_hoop.signals import handling, when_told_to_end

LOGIN_KEYS = ("host", "port", "username", "password", "database", "sslmode")


@click.command(
    epilog="Example: kubectl hoop psql orders-ro -n shop -- -c 'SELECT count(*) FROM orders'",
    short_help="Open a psql session with a plan's credentials.",
)
@plan_name
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PSQL ARGUMENTS]")
@by_another_way
@on_cluster
async def psql(
    cluster: Cluster, name: str, arguments: tuple[str, ...], host: str | None, port: int | None
) -> int:
    """Open a psql session with the generated credentials of a plan's Secret.

    The password is in no argument and no environment variable. Returns psql's exit code.
    """
    program = shutil.which("psql")
    if program is None:
        note("psql is not on PATH; install PostgreSQL's client (postgresql-client, libpq)")
        return WRONG
    plan = await read_plan(cluster.api, Key(cluster.namespace, name))
    secret_name = plan.status.get("secretName") or plan.secret_name
    try:
        secret = await read_secret(cluster.api, plan.key.namespace, secret_name)
    except AccessDenied as error:
        raise AccessDenied(
            f"you may not read the Secret {plan.key.namespace}/{secret_name}, which has the password; it takes the "
            f"verb get on secrets there",
            status=error.status,
        ) from None
    problem, values = login_of(secret)
    if problem:
        ready = plan.condition("Ready")
        note(
            f"HoopRolePlan {plan.key} has no Secret to log in with: {secret_name} {problem}. "
            f"{ready.get('reason', 'No run yet')}: {ready.get('message', '')}".rstrip(": .")
        )
        return WRONG
    return _run(program, arguments, values, host or values["host"], port or int(values["port"]))


def login_of(secret: Secret | None) -> tuple[str, dict[str, str]]:
    """What is wrong with a plan's Secret, in words, if anything is, and what psql needs of it.

    A Secret may be there before the plan's first run, with a password that is to be taken over, say, and it may have
    keys of others, which hold anything.
    """
    if secret is None:
        return "does not exist", {}
    if missing := [key for key in LOGIN_KEYS if not secret.data.get(key)]:
        return f"is not the plan's yet, for it lacks {', '.join(missing)}", {}
    try:
        values = {key: secret.data[key].decode() for key in (*LOGIN_KEYS, "ca.crt") if key in secret.data}
    except UnicodeDecodeError:
        return "was edited, for what it holds is no text", {}
    return ("", values) if values["port"].isdecimal() else ("was edited, for its port is no number", {})


def _run(program: str, arguments: tuple[str, ...], values: Mapping[str, str], host: str, port: int) -> int:
    with tempfile.TemporaryDirectory(prefix="kubectl-hoop-") as directory:
        login = output_data(
            host=host,
            port=port,
            username=values["username"],
            password=values["password"],
            database=values["database"],
            databases=(),
            sslmode=values["sslmode"],
            ca_certificate=None,
        )
        environment = {
            "PGHOST": host,
            "PGPORT": str(port),
            "PGUSER": values["username"],
            "PGDATABASE": values["database"],
            "PGSSLMODE": values["sslmode"],
            "PGPASSFILE": _file(directory, "pgpass", login["pgpass"]),
        }
        if authority := values.get("ca.crt"):
            environment["PGSSLROOTCERT"] = _file(directory, "ca.crt", authority)
        elif values["sslmode"] == SslMode.VERIFY_FULL:
            environment["PGSSLROOTCERT"] = "system"  # as the operator does; libpq knows it from version 16 on
        # Not exec: the files have to go when psql ends. Ctrl-C is psql's, which cancels a query by it.
        started = subprocess.Popen(  # noqa: S603 -- the person's own psql, with the person's arguments
            [program, *arguments], env={**os.environ, **environment}
        )
        received: list[int] = []

        def pass_on(signum: int, _frame: FrameType | None) -> None:
            received.append(signum)
            started.send_signal(signum)

        with started as session, handling(signal.SIGINT, lambda *_: None), when_told_to_end(pass_on):
            code = session.wait()
        # As a shell has it for a program that a signal ended.
        ending = received[0] if received else -code
        return 128 + ending if ending > 0 else code


def _file(directory: str, name: str, content: str) -> str:
    path = Path(directory) / name
    path.touch(mode=0o600)
    path.write_text(content)
    return str(path)

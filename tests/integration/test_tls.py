"""Which TLS, and which proof of identity on either side, a resource's variables ask for."""

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from integration.authority import Authority
from integration.operator_process import OperatorProcess
from integration.registrant import CONFIDENTIAL, Registrant
from integration.tenant import eventually
from local import postgresql
from local.errors import StackError
from local.postgresql import Server

PASSWORD = f"{CONFIDENTIAL}-Zr4"

VERSION_WITHOUT_TLS = "18"
"""The package that this one comes in was built without TLS."""

RULES = """
hostssl all certified 127.0.0.1/32 cert
hostssl all tls_only  127.0.0.1/32 scram-sha-256
hostssl all cleartext 127.0.0.1/32 password
host    all postgres  127.0.0.1/32 scram-sha-256
"""


class TlsServer(NamedTuple):
    """A server with a certificate for `localhost`, and who has signed that."""

    server: Server
    authority: Authority
    log: Path

    def env(self, sslmode: str | None = None, **changes: str) -> dict[str, str]:
        """The variables of its superuser."""
        server = self.server
        env = {"HOST": "localhost", "PORT": str(server.port), "USER": server.user, "PASS": server.password}
        return env | ({"SSLMODE": sslmode} if sslmode else {}) | changes

    def used_tls(self, user: str) -> bool:
        """Whether the operator's last session as a user was encrypted."""
        lines = re.findall(
            rf"connection authorized: user={user} .*application_name=hoop-operator.*", self.log.read_text()
        )
        return "SSL enabled" in lines[-1]


@pytest.fixture(scope="module")
async def tls(
    stack_directory: Path, postgres: Server, client_authority: Authority
) -> AsyncIterator[TlsServer]:
    version = postgres.version if postgres.version != VERSION_WITHOUT_TLS else "17"
    directory = stack_directory / "tls"
    directory.mkdir()
    try:
        server = postgresql.start(directory, version)
    except StackError as error:
        pytest.skip(f"there is no PostgreSQL with TLS to be had: {error}")
    authority = Authority("servers")
    identity = authority.issue("server", "localhost")
    data = postgresql._data(directory, version)
    owner = data.stat()
    for name, content in {
        "server.crt": identity.certificate,
        "server.key": identity.key,
        "clients.crt": client_authority.certificate,
        "pg_hba.conf": RULES,
    }.items():
        (data / name).write_text(content)
        (data / name).chmod(0o600)
        os.chown(data / name, owner.st_uid, owner.st_gid)
    async with await psycopg.AsyncConnection.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, autocommit=True
    ) as session:
        for role in ("certified", "tls_only", "cleartext"):
            await session.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(sql.Identifier(role), PASSWORD)
            )
        for setting, value in {
            "ssl": "on",
            "ssl_ca_file": "clients.crt",
            "log_connections": "on",
        }.items():
            await session.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting), value))
        await session.execute("SELECT pg_reload_conf()")

    async def encrypts() -> bool:
        try:
            session = await psycopg.AsyncConnection.connect(
                host=server.host,
                port=server.port,
                user=server.user,
                password=server.password,
                sslmode="require",
            )
        except psycopg.OperationalError:
            return False
        await session.close()
        return True

    await eventually(encrypts, what="the server has TLS")
    yield TlsServer(server, authority, server.log)
    postgresql.stop(directory, version)
    postgresql.remove(directory, version)


@pytest.mark.parametrize(
    ("sslmode", "encrypted"), [("disable", False), ("prefer", True), (None, True), ("require", True)]
)
async def test_tls_is_used_as_the_mode_says_and_nobody_is_verified(
    registrant: Registrant, tls: TlsServer, sslmode: str | None, encrypted: bool
) -> None:
    await registrant.register("db", envVars=tls.env(sslmode, HOST="127.0.0.1"))
    await registrant.until("db", "Registered")
    assert tls.used_tls("postgres") is encrypted


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
async def test_the_right_ca_is_trusted(registrant: Registrant, tls: TlsServer, sslmode: str) -> None:
    await registrant.register("db", envVars=tls.env(sslmode, SSLROOTCERT=tls.authority.certificate))
    await registrant.until("db", "Registered")
    assert tls.used_tls("postgres")


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
async def test_another_ca_is_not(registrant: Registrant, tls: TlsServer, sslmode: str) -> None:
    other = Authority("others").certificate
    await registrant.register("db", envVars=tls.env(sslmode, SSLROOTCERT=other))
    await registrant.until("db", "ServerUnreachable", "certificate verify failed")


async def test_the_systems_own_cas_are_not_trusted_for_a_made_up_one(
    registrant: Registrant, tls: TlsServer
) -> None:
    await registrant.register("full", envVars=tls.env("verify-full"))
    await registrant.register("ca", envVars=tls.env("verify-ca"))
    await registrant.until("full", "ServerUnreachable", "certificate verify failed")
    await registrant.until("ca", "CredentialsMissing", "SSLROOTCERT")


async def test_the_host_name_counts_with_verify_full_only(registrant: Registrant, tls: TlsServer) -> None:
    wrong = {"HOST": "127.0.0.1", "SSLROOTCERT": tls.authority.certificate}
    await registrant.register("ca", envVars=tls.env("verify-ca", **wrong))
    await registrant.register("full", envVars=tls.env("verify-full", **wrong))
    await registrant.until("ca", "Registered")
    await registrant.until("full", "ServerUnreachable", "does not match host name")


async def test_a_ca_of_another_tools_secret_is_used(registrant: Registrant, tls: TlsServer) -> None:
    await registrant.make_secret("admin", tls.env("verify-full") | {"ca.crt": tls.authority.certificate})
    await registrant.register("db", envVarsFrom=[{"secretRef": {"name": "admin"}}])
    await registrant.until("db", "Registered")


async def test_a_server_without_tls_is_unreachable_where_tls_is_asked_for(
    registrant: Registrant, postgres: Server
) -> None:
    env = {
        "HOST": postgres.host,
        "PORT": str(postgres.port),
        "USER": postgres.user,
        "PASS": postgres.password,
    }
    await registrant.register("db", envVars=env | {"SSLMODE": "require"})
    await registrant.until("db", "ServerUnreachable", "does not support SSL")


async def test_a_login_that_the_server_allows_over_tls_only_fails_without(
    registrant: Registrant, tls: TlsServer
) -> None:
    login = {"USER": "tls_only", "PASS": PASSWORD}
    await registrant.register("without", envVars=tls.env("disable", **login))
    await registrant.register("with", envVars=tls.env("require", **login))
    await registrant.until("without", "AuthenticationFailed", "pg_hba.conf")
    await registrant.until("with", "Registered")


async def test_a_cleartext_password_goes_over_verified_tls_only(
    registrant: Registrant, tls: TlsServer
) -> None:
    login = {"USER": "cleartext", "PASS": PASSWORD}
    await registrant.register("unverified", envVars=tls.env("require", **login))
    ca = {"SSLROOTCERT": tls.authority.certificate}
    await registrant.register("verified", envVars=tls.env("verify-full", **login, **ca))
    await registrant.until("unverified", "AuthenticationFailed", "verify-ca or verify-full")
    await registrant.until("verified", "Registered")


async def test_a_client_certificate_logs_in_without_a_password_and_leaves_no_file_behind(
    registrant: Registrant, tls: TlsServer, client_authority: Authority, planted_operator: OperatorProcess
) -> None:
    def env(certificate: str, key: str) -> dict[str, Any]:
        env = tls.env("require", USER="certified", SSLCERT=certificate, SSLKEY=key)
        del env["PASS"]
        return env

    await registrant.register("right", envVars=env(*client_authority.issue("certified")))
    await registrant.register("else", envVars=env(*client_authority.issue("somebody-else")))
    certificate, _ = client_authority.issue("certified")
    _, other_key = client_authority.issue("certified")
    await registrant.register("mixed", envVars=env(certificate, other_key))
    await registrant.register("nobody", envVars=tls.env("require", USER="certified", PASS=PASSWORD))
    await registrant.until("right", "Registered")
    await registrant.until("else", "AuthenticationFailed", "certificate authentication failed")
    # ~/.postgresql holds a certificate that would do.
    await registrant.until("nobody", "AuthenticationFailed", "valid client certificate")
    mixed = await registrant.until("mixed", "ServerUnreachable", "SSLKEY")
    assert (
        "hoop-tls" not in mixed["message"]
    )  # a path that is another one every time makes a new failure each time

    files = Path(planted_operator.environment["TMPDIR"])

    def no_files() -> bool:
        return not [*files.glob("hoop-tls-*")]

    await eventually(lambda: asyncio.to_thread(no_files), what="no key is left in a file")


@pytest.fixture
def left_behind(tmp_path: Path) -> Callable[[], set[int]]:
    """Files of a process that is no more and of one that is; tells whose there are."""
    with subprocess.Popen(["true"]) as ended:  # noqa: S607 -- any program that ends
        ended.wait()
    for owner in (ended.pid, os.getpid()):
        (tmp_path / f"hoop-tls-{owner}-a1b2").mkdir()
        (tmp_path / f"hoop-tls-{owner}-a1b2" / "sslkey").touch()
    return lambda: {int(path.name.split("-")[2]) for path in tmp_path.glob("hoop-tls-*")}


@pytest.mark.version_independent
async def test_a_key_that_a_killed_operator_left_in_a_file_is_gone_with_the_next_start(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    tmp_path: Path,
    left_behind: Callable[[], set[int]],
) -> None:
    assert len(left_behind()) == 2
    await own_operator({"TMPDIR": str(tmp_path)}).start()
    assert left_behind() == {os.getpid()}

"""What libpq is told, so that it asks neither its environment nor files for anything."""

import os
from collections.abc import Sequence
from typing import Any

from hoop_operator.credentials.connection import Connection

CONNECT_SECONDS_MIN = 2
"""libpq takes no shorter `connect_timeout`; it holds for every address of a host by itself."""

NO_FILE = "/dev/null/none"
"""A path at which nothing can ever be: an unset parameter would mean a file in the home directory."""

ANY_AUTHENTICATION = "none,password,md5,scram-sha-256"
"""`none` is a client certificate, or trust; to libpq an empty list would mean none of them."""

VERIFYING_SSL_MODES = frozenset({"verify-ca", "verify-full"})


def libpq_parameters(
    who: Connection, database: str, addresses: Sequence[str], paths: dict[str, str], seconds: int
) -> dict[str, Any]:
    """Every parameter for which libpq would otherwise ask its environment, a service file or the home directory."""
    verified = who.sslmode in VERIFYING_SSL_MODES
    client_certificate = "sslcert" in paths
    return {
        "host": ",".join([who.host] * len(addresses)),
        "hostaddr": ",".join(addresses),
        "port": str(who.port),
        "user": who.user,
        "password": who.password or "",
        "dbname": database,
        "sslmode": str(who.sslmode),
        "sslrootcert": paths.get("sslrootcert", "system" if who.sslmode == "verify-full" else NO_FILE),
        "sslcert": paths.get("sslcert", NO_FILE),
        "sslkey": paths.get("sslkey", NO_FILE),
        "sslcertmode": "allow" if client_certificate else "disable",
        "sslcrl": NO_FILE,
        "gssencmode": "disable",
        "require_auth": ANY_AUTHENTICATION if verified else "!password",
        "passfile": NO_FILE,
        "connect_timeout": str(max(CONNECT_SECONDS_MIN, seconds // len(addresses))),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
        "application_name": "hoop-operator",
        "client_encoding": "utf8",
        "target_session_attrs": "any",
    }


def forget_libpq_environment() -> None:
    """Take every `PG*` variable out of this process's environment; libpq would fall back on them."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]

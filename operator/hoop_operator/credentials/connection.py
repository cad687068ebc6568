"""How the operator reaches a PostgreSQL server: all that may be handed to the driver, and nothing else."""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

from hoop_operator.credentials.env import ENV_VARS_FIELD, NONE_FOLLOWED, decode
from hoop_operator.credentials.faults import raise_faults
from hoop_operator.credentials.hosts import connection_host, host_allowed
from hoop_operator.credentials.references import Values
from hoop_operator.credentials.sources import (
    ENDPOINT_SPELLING,
    SPELLINGS,
    URI_SPELLINGS,
    Source,
    Variable,
    connection_variables,
)

DEFAULT_PORT = 5432
DEFAULT_DATABASE = "postgres"
LINE_BREAK = "it ends with a line break; write it without one, such as by printf %s"

T = TypeVar("T")


class SslMode(StrEnum):
    """libpq's TLS modes."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Connection:
    """The checked parameters of an admin connection.

    Certificates and key are PEM contents. `connect_timeout` is in seconds, None where the resource sets none.
    """

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    database: str
    sslmode: SslMode
    ca_certificate: str | None
    client_certificate: str | None
    client_key: str | None = field(repr=False)
    connect_timeout: int | None

    @property
    def endpoint(self) -> Endpoint:
        """The server's address."""
        return Endpoint(self.host, self.port)


def postgres_connection(
    env_vars: Mapping[str, str],
    sources: Sequence[Source],
    *,
    values: Values = NONE_FOLLOWED,
    absent: Sequence[str] = (),
    namespace: str,
    allowed_hosts: Sequence[str],
) -> Connection:
    """Put together the connection of a resource of subtype postgres.

    Every variable is taken from `env_vars`, else from the latest source that has it.

    Parameters
    ----------
    env_vars
        The resource's `spec.envVars`.
    sources
        What its `spec.envVarsFrom` names, in that order.
    values
        What the references in `env_vars` came to.
    absent
        What it names and does not exist, in words. Where anything is absent, nothing is called missing.
    namespace
        The resource's namespace, in which a host without a dot is a Service.
    allowed_hosts
        The operator's setting: globs and networks, none to allow all.

    Raises
    ------
    ResourceFailure
        `CredentialsInvalid`, `CredentialsUnresolved` or `CredentialsMissing`, listing all that is wrong.
    """
    decoded = decode(env_vars, values=values)
    malformed = list(decoded.problems)
    found: dict[str, Variable] = {}
    for source in (*sources, Source(ENV_VARS_FIELD, decoded.variables)):
        variables, problems = connection_variables(source)
        found |= variables
        malformed += problems

    def read(name: str, parse: Callable[[str], T], default: T) -> T:
        variable = found.get(name)
        if variable is None:
            return default
        try:
            return parse(_text(variable.value))
        except ValueError as error:
            why = LINE_BREAK if _is_but_for_a_line_break(variable.value, parse) else error
            malformed.append(f"{name} ({variable.origin}): {why}")
            return default

    connection = Connection(
        host=read("HOST", lambda text: _allowed_host(text, namespace, allowed_hosts), ""),
        port=read("PORT", _port, DEFAULT_PORT),
        user=read("USER", str, ""),
        password=read("PASS", str, None),
        database=read("DB", _database, DEFAULT_DATABASE),
        sslmode=read("SSLMODE", _sslmode, SslMode.PREFER),
        ca_certificate=read("SSLROOTCERT", _certificate, None),
        client_certificate=read("SSLCERT", _certificate, None),
        client_key=read("SSLKEY", _private_key, None),
        connect_timeout=read("CONNECT_TIMEOUT", _connect_timeout, None),
    )
    given = found.keys() | {
        name
        for name, spellings in SPELLINGS.items()
        if not decoded.undecoded.isdisjoint((*spellings, *URI_SPELLINGS))
    }
    missing = [name for name in _required(given, connection.sslmode) if name not in given and not absent]
    raise_faults(
        malformed=malformed,
        unresolved=[*absent, *decoded.unresolved],
        missing=[_missing(missing, [source.description for source in sources])] if missing else [],
    )
    return connection


def holds_password(env_vars: Mapping[str, str]) -> bool:
    """Tell whether `spec.envVars` itself carries the admin's password, which belongs into a Secret."""
    variables, _ = connection_variables(Source(ENV_VARS_FIELD, decode(env_vars).variables))
    return "PASS" in variables


def _required(given: Set[str], sslmode: SslMode) -> list[str]:
    # A client certificate stands in for the password, but only whole.
    login = ["SSLCERT", "SSLKEY"] if not given.isdisjoint({"SSLCERT", "SSLKEY"}) else ["PASS"]
    # The system's own roots are trusted with verify-full only, where the host name is checked too.
    authority = ["SSLROOTCERT"] if sslmode is SslMode.VERIFY_CA else []
    return ["HOST", "USER", *login, *authority]


def _missing(names: Sequence[str], descriptions: Sequence[str]) -> str:
    places = ", ".join((ENV_VARS_FIELD, *descriptions))
    keys = "; ".join(f"{name} as {', '.join(_keys(name))}" for name in names)
    return f"missing or empty: {', '.join(names)}; looked in {places} for {keys}, and in the parts of a uri"


def _keys(name: str) -> tuple[str, ...]:
    return (*SPELLINGS[name], ENDPOINT_SPELLING) if name == "HOST" else SPELLINGS[name]


def _is_but_for_a_line_break(value: bytes, parse: Callable[[str], T]) -> bool:
    line = value.rstrip(b"\r\n")
    try:
        parse(_text(line))
    except ValueError:
        return False
    return line != value


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError("the value is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("the value holds a NUL byte; remove it")
    return text


def _allowed_host(text: str, namespace: str, allowed_hosts: Sequence[str]) -> str:
    host = connection_host(text, namespace)
    if not host_allowed(host, allowed_hosts):
        raise ValueError("the operator's setting HOOP_ALLOWED_HOSTS does not allow this host")
    return host


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("a port must be a number from 1 to 65535")
    return int(text)


def _database(text: str) -> str:
    # CloudNativePG writes `*` where a Secret is good for every database.
    return DEFAULT_DATABASE if text == "*" else text


def _sslmode(text: str) -> SslMode:
    if text not in set(SslMode):
        raise ValueError(f"an SSL mode must be one of {', '.join(SslMode)}")
    return SslMode(text)


def _connect_timeout(text: str) -> int | None:
    # As for libpq, 0 sets no limit; the operator's own limit holds all the same.
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("connect_timeout must be a whole number of seconds")
    return int(text) or None


def _certificate(text: str) -> str:
    return _pem(text, "CERTIFICATE")


def _private_key(text: str) -> str:
    if "ENCRYPTED" in text:
        raise ValueError("the private key is encrypted; give it without a passphrase")
    return _pem(text, "(?:[A-Z]+ )?PRIVATE KEY")


def _pem(text: str, label: str) -> str:
    if not re.search(rf"^-----BEGIN ({label})-----\s.*?^-----END \1-----", text, re.DOTALL | re.MULTILINE):
        raise ValueError("it must hold the contents of a PEM file, not a path or another format")
    return text

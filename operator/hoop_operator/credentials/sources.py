"""The variables of a connection in Secrets and ConfigMaps, whoever made them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from hoop_operator.credentials.uri import parse_uri

# Per variable, the keys it is known by, first found wins: hoop's own, the lower-case ones of Service Binding,
# CloudNativePG, Crunchy, Crossplane, Zalando and Bitnami, then libpq's and the postgres image's environment.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "HOST": ("HOST", "host", "hostname", "address", "PGHOST", "POSTGRES_HOST"),
    "PORT": ("PORT", "port", "PGPORT", "POSTGRES_PORT"),
    "USER": ("USER", "user", "username", "USERNAME", "PGUSER", "POSTGRES_USER"),
    "PASS": ("PASS", "pass", "password", "PASSWORD", "PGPASSWORD", "POSTGRES_PASSWORD", "postgres-password"),
    "DB": ("DB", "db", "dbname", "database", "DBNAME", "DATABASE", "PGDATABASE", "POSTGRES_DB"),
    "SSLMODE": ("SSLMODE", "sslmode", "PGSSLMODE"),
    "SSLROOTCERT": ("SSLROOTCERT", "sslrootcert", "ca.crt", "PGSSLROOTCERT"),
    "SSLCERT": ("SSLCERT", "sslcert", "tls.crt", "PGSSLCERT"),
    "SSLKEY": ("SSLKEY", "sslkey", "tls.key", "PGSSLKEY"),
}
ENDPOINT_SPELLING = "endpoint"
"""Crossplane's key for a host, with or without `:port`."""
URI_SPELLINGS = ("uri", "URI")

_ENDPOINT = re.compile(rb"(?P<HOST>\[[^\]]*\]|[^:]*):(?P<PORT>[0-9]+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One place that variables come from: an entry of `spec.envVarsFrom` with the object it names, read.

    `description` is how messages call it, such as `Secret shop-admin`. `prefix` is put in front of every key
    before anything is looked up, as a Pod's `envFrom` does: with the prefix `PG` a key `HOST` is `PGHOST` and
    found, while with the prefix `MAIN_` it is `MAIN_HOST`, which is no variable of a connection.
    """

    description: str
    data: Mapping[str, bytes] = field(repr=False)
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """A value and the place it came from, in words."""

    value: bytes = field(repr=False)
    origin: str


def connection_variables(source: Source) -> tuple[dict[str, Variable], list[str]]:
    """Find the variables of a connection in one source, whatever spelling they have there.

    An empty value counts as none. A variable's own keys win over a part of the endpoint, and that over a part
    of the URI.

    Returns
    -------
    The variables by NAME (the keys of `SPELLINGS` and CONNECT_TIMEOUT, which only a URI can give), and what
    is wrong with the URI; it is checked even where every part of it is given by another key.
    """
    named = {source.prefix + key: value for key, value in source.data.items() if value}
    variables: dict[str, Variable] = {}
    problems: list[str] = []
    for spelling in URI_SPELLINGS:
        if spelling in named:
            origin = f"{spelling} in {source.description}"
            parts, faults = parse_uri(named[spelling])
            variables = {name: Variable(value, f"{name} of {origin}") for name, value in parts.items()}
            problems = [f"{origin}: {fault}" for fault in faults]
            break
    if endpoint := named.get(ENDPOINT_SPELLING):
        origin = f"{ENDPOINT_SPELLING} in {source.description}"
        split = _ENDPOINT.fullmatch(endpoint)
        for name, value in (split.groupdict() if split else {"HOST": endpoint}).items():
            variables[name] = Variable(value, origin)
    for name, spellings in SPELLINGS.items():
        for spelling in spellings:
            if spelling in named:
                variables[name] = Variable(named[spelling], f"{spelling} in {source.description}")
                break
    return variables, problems

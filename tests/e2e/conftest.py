"""The main job on a cluster where the operator runs already: `. .local/env && make e2e` after `make up`.

The cluster is the one that KUBECONFIG names, PG* name a server that the operator and this machine reach alike, as a
superuser. Only a namespace, two databases and their roles of random names are made, and removed again.
"""

import base64
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

NEEDED = ("KUBECONFIG", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")


@dataclass(frozen=True)
class Cluster:
    """The cluster under test, seen through kubectl, in a namespace of the test's own."""

    namespace: str

    def kubectl(self, *arguments: str, manifest: Any = None) -> str:
        """What kubectl prints; its own message is the failure."""
        finished = subprocess.run(  # noqa: S603 -- the program and its arguments are the tests' own
            ["kubectl", "--namespace", self.namespace, *arguments],  # noqa: S607 -- whichever the person uses
            input=json.dumps(manifest) if manifest else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl(
            "apply", "-f", "-", manifest={"apiVersion": "v1", "kind": "List", "items": list(objects)}
        )

    def wait(self, what: str, condition: str = "condition=Ready") -> None:
        """Wait until an object has a condition, a minute at most."""
        self.kubectl("wait", what, f"--for={condition}", "--timeout=60s")

    def secret(self, name: str) -> dict[str, str]:
        """The decoded keys of a Secret."""
        data = json.loads(self.kubectl("get", "secret", name, "-o", "json"))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.fixture(scope="session", autouse=True)
def _environment() -> None:
    if absent := [name for name in NEEDED if name not in os.environ]:
        pytest.exit(
            f"{', '.join(absent)} must be set; with the local stack: make up && . .local/env", returncode=2
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(f"hoop-e2e-{secrets.token_hex(4)}")
    cluster.kubectl("create", "namespace", cluster.namespace)
    yield cluster
    cluster.kubectl("delete", "hooproleplans", "--all", "--timeout=60s")
    cluster.kubectl("delete", "namespace", cluster.namespace, "--timeout=120s")


@pytest.fixture
def admin() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dbname="postgres", autocommit=True) as connection:
        yield connection


@pytest.fixture
def database(admin: psycopg.Connection[Any]) -> Iterator[str]:
    name = f"e2e {secrets.token_hex(4)}"
    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(dbname=name, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id serial PRIMARY KEY, what text)")
    yield name
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

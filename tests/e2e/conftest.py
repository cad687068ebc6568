"""What a user relies on, on a cluster where the operator runs: `make e2e`.

The cluster is the one that KUBECONFIG names, PG* name a server as a superuser of it. Where the operator reaches that
server by another address than this machine, HOOP_E2E_HOST and HOOP_E2E_PORT say which. Only namespaces, databases and
their roles of random names are made, and removed again. Tests of Pods are left out where the operator runs in none.
"""

import base64
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

NEEDED = ("KUBECONFIG", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")
OPERATOR = "app.kubernetes.io/name=hoop-operator"


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

    def get(self, what: str, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them."""
        found: dict[str, Any] = json.loads(self.kubectl("get", what, *arguments, "--output=json"))
        return found

    def wait(self, what: str, condition: str = "condition=Ready") -> None:
        """Wait until an object has a condition, a minute at most."""
        self.kubectl("wait", what, f"--for={condition}", "--timeout=60s")

    def annotate(self, plan: str, **annotations: str) -> None:
        """Set annotations of ours on a plan; underscores stand for dashes."""
        pairs = [f"hoop.dev/{name.replace('_', '-')}={value}" for name, value in annotations.items()]
        self.kubectl("annotate", "--overwrite", f"hooproleplan/{plan}", *pairs)

    def secret(self, name: str) -> dict[str, str]:
        """The decoded keys of a Secret."""
        data = self.get(f"secret/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def plan(self, name: str, database: str, *privileges: str, **spec: Any) -> dict[str, Any]:
        """A managed plan for a database."""
        return {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopRolePlan",
            "metadata": {"name": name},
            "spec": {
                "resourceRef": {"name": "main"},
                "type": "managed",
                "role": name,
                "scopes": [f'"{database}".public'],
                "privileges": list(privileges),
                **spec,
            },
        }


def log_in(credentials: dict[str, str]) -> psycopg.Connection[Any]:
    """A session as whom a Secret names, by the address that this machine knows the server by."""
    return psycopg.connect(
        autocommit=True,
        host=os.environ["PGHOST"],
        port=os.environ["PGPORT"],
        user=credentials["username"],
        password=credentials["password"],
        dbname=credentials["database"],
    )


def eventually(holds: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until something holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)


@pytest.fixture(scope="session", autouse=True)
def _environment() -> None:
    if absent := [name for name in NEEDED if name not in os.environ]:
        pytest.exit(
            f"{', '.join(absent)} must be set, or KUBECONFIG unset for servers of the run's own", returncode=2
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A namespace with a registered server."""
    cluster = Cluster(f"hoop-e2e-{secrets.token_hex(4)}")
    cluster.kubectl("create", "namespace", cluster.namespace)
    admin = {
        "host": os.environ.get("HOOP_E2E_HOST", os.environ["PGHOST"]),
        "port": os.environ.get("HOOP_E2E_PORT", os.environ["PGPORT"]),
        "username": os.environ["PGUSER"],
        "password": os.environ["PGPASSWORD"],
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "admin"}, "stringData": admin},
        {
            "apiVersion": "hoop.dev/v1alpha1",
            "kind": "HoopResource",
            "metadata": {"name": "main"},
            "spec": {
                "type": "database",
                "subtype": "postgres",
                "envVarsFrom": [{"secretRef": {"name": "admin"}}],
            },
        },
    )
    cluster.wait("hoopresource/main")
    yield cluster
    cluster.kubectl("delete", "hooproleplans", "--all", "--timeout=60s")
    cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")


@pytest.fixture
def operator() -> Cluster:
    """The namespace in which the operator runs in Pods."""
    everywhere = Cluster("default")
    pods = everywhere.get("pods", "--all-namespaces", f"--selector={OPERATOR}")["items"]
    if not pods:
        pytest.skip("the operator runs in no Pod")
    return Cluster(pods[0]["metadata"]["namespace"])


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

"""From two objects to a login that may do what it should, and back to nothing."""

import os
from typing import Any

import psycopg
import pytest

from e2e.conftest import Cluster


def secret() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "admin"},
        "stringData": {
            "host": os.environ["PGHOST"],
            "port": os.environ["PGPORT"],
            "username": os.environ["PGUSER"],
            "password": os.environ["PGPASSWORD"],
        },
    }


def resource() -> dict[str, Any]:
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": [{"secretRef": {"name": "admin"}}]}
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": "main"},
        "spec": spec,
    }


def plan(database: str, *privileges: str) -> dict[str, Any]:
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": "writer"},
        "spec": {
            "resourceRef": {"name": "main"},
            "type": "managed",
            "role": "writer",
            "scopes": [f'"{database}".public'],
            "privileges": list(privileges),
        },
    }


def test_a_plan_becomes_a_login_with_exactly_its_privileges_and_goes_without_a_trace(
    cluster: Cluster, admin: psycopg.Connection[Any], database: str
) -> None:
    cluster.apply(secret(), resource(), plan(database, "SELECT", "INSERT"))
    cluster.wait("hoopresource/main")
    cluster.wait("hooproleplan/writer")
    credentials = cluster.secret("writer-credentials")
    with psycopg.connect(credentials["uri"], autocommit=True) as login:
        login.execute("INSERT INTO orders (what) VALUES ('tea')")
        assert login.execute("SELECT what FROM orders").fetchall() == [("tea",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            login.execute("DELETE FROM orders")
    cluster.apply(plan(database, "SELECT"))
    cluster.wait("hooproleplan/writer", "jsonpath={.status.observedGeneration}=2")
    with (
        psycopg.connect(credentials["uri"], autocommit=True) as login,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        login.execute("INSERT INTO orders (what) VALUES ('more')")
    cluster.kubectl("annotate", "hooproleplan", "writer", "hoop.dev/rotate-at=once")
    cluster.wait("hooproleplan/writer", "jsonpath={.status.observedRotateAt}=once")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(credentials["uri"])
    with psycopg.connect(cluster.secret("writer-credentials")["uri"]) as login:
        login.execute("SELECT FROM orders")
    cluster.kubectl("delete", "hooproleplan", "writer", "--timeout=60s")
    left = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [credentials["username"]])
    assert left.fetchall() == []

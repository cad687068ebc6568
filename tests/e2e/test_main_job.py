"""From two objects to a login that may do what it should, kept so, and back to nothing."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from e2e.conftest import Cluster, log_in


def test_a_plan_becomes_a_login_with_exactly_its_privileges_and_goes_without_a_trace(
    cluster: Cluster, admin: psycopg.Connection[Any], database: str
) -> None:
    cluster.apply(cluster.plan("writer", database, "SELECT", "INSERT"))
    cluster.wait("hooproleplan/writer")
    credentials = cluster.secret("writer-credentials")
    with log_in(credentials) as login:
        login.execute("INSERT INTO orders (what) VALUES ('tea')")
        assert login.execute("SELECT what FROM orders").fetchall() == [("tea",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            login.execute("DELETE FROM orders")
    cluster.apply(cluster.plan("writer", database, "SELECT"))
    cluster.wait("hooproleplan/writer", "jsonpath={.status.observedGeneration}=2")
    with log_in(credentials) as login, pytest.raises(psycopg.errors.InsufficientPrivilege):
        login.execute("INSERT INTO orders (what) VALUES ('more')")
    cluster.annotate("writer", rotate_at="once")
    cluster.wait("hooproleplan/writer", "jsonpath={.status.observedRotateAt}=once")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        log_in(credentials)
    with log_in(cluster.secret("writer-credentials")) as login:
        login.execute("SELECT FROM orders")
    cluster.kubectl("delete", "hooproleplan", "writer", "--timeout=60s")
    left = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [credentials["username"]])
    assert left.fetchall() == []
    cluster.wait("secret/writer-credentials", "delete")


def test_a_plan_that_needs_approval_is_applied_when_its_checksum_is_approved(
    cluster: Cluster, database: str
) -> None:
    cluster.apply(cluster.plan("reader", database, "SELECT", approval="Manual"))
    cluster.wait("hooproleplan/reader", "condition=PendingApproval")
    plan = cluster.get("hooproleplan/reader")["status"]["plan"]
    assert any("GRANT SELECT" in statement for statement in plan["statements"])
    assert cluster.get("secrets", "--field-selector=metadata.name=reader-credentials")["items"] == []
    cluster.annotate("reader", approve=plan["checksum"])
    cluster.wait("hooproleplan/reader")
    with log_in(cluster.secret("reader-credentials")) as login:
        login.execute("SELECT FROM orders")


def test_a_lost_secret_and_lost_rights_come_back_and_a_lost_password_is_not_used_again(
    cluster: Cluster, admin: psycopg.Connection[Any], database: str
) -> None:
    cluster.apply(cluster.plan("reader", database, "SELECT"))
    cluster.wait("hooproleplan/reader")
    lost = cluster.secret("reader-credentials")
    with psycopg.connect(dbname=database, autocommit=True) as session:
        session.execute(sql.SQL("REVOKE SELECT ON orders FROM {}").format(sql.Identifier(lost["username"])))
    cluster.kubectl("delete", "secret", "reader-credentials")
    cluster.annotate("reader", reconcile_at="now")
    cluster.wait("hooproleplan/reader", "jsonpath={.status.observedReconcileAt}=now")
    cluster.wait("hooproleplan/reader")
    found = cluster.secret("reader-credentials")
    assert found["username"] == lost["username"]
    assert found["password"] != lost["password"]
    with log_in(found) as login:
        login.execute("SELECT FROM orders")


def test_a_plan_that_cannot_be_carried_out_says_why_and_heals_when_the_cause_is_gone(
    cluster: Cluster, admin: psycopg.Connection[Any], database: str
) -> None:
    plan = cluster.plan("reader", database, "SELECT", scopes=[f'"{database}".shop'])
    cluster.apply(plan)
    cluster.wait(
        "hooproleplan/reader", 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}=SchemaNotFound'
    )
    assert "shop" in cluster.get("hooproleplan/reader")["status"]["message"]
    with psycopg.connect(dbname=database, autocommit=True) as session:
        session.execute("CREATE SCHEMA shop")
    cluster.annotate("reader", reconcile_at="now")
    cluster.wait("hooproleplan/reader")

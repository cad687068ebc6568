"""The operator in Pods: how they run, that another one takes over, and that nothing is lost by it."""

from pathlib import Path
from typing import Any

import yaml

from e2e.conftest import OPERATOR, Cluster, eventually, log_in

LEASE = "lease/hoop-operator"
SERVER = yaml.safe_load_all((Path(__file__).parents[2] / "deploy/e2e/postgresql.yaml").read_text())
(CLIENT,) = (
    container["image"]
    for found in SERVER
    if found["kind"] == "StatefulSet"
    for container in found["spec"]["template"]["spec"]["containers"]
)
"""An image with psql, which the node of the kind cluster has already."""


def pods(operator: Cluster) -> dict[str, dict[str, Any]]:
    return {pod["metadata"]["name"]: pod for pod in operator.get("pods", f"--selector={OPERATOR}")["items"]}


def leader(operator: Cluster) -> str:
    """The Pod that leads; the holder of the Lease is named after its host and something that none shares."""
    holder: str = operator.get(LEASE)["spec"]["holderIdentity"]
    return holder.rpartition("_")[0]


def test_the_pods_are_restricted_and_run_without_a_restart(operator: Cluster) -> None:
    for name, pod in pods(operator).items():
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        (status,) = pod["status"]["containerStatuses"]
        assert (status["ready"], status["restartCount"]) == (True, 0), name


def test_another_pod_takes_over_from_one_that_is_killed_and_no_password_changes(
    operator: Cluster, cluster: Cluster, database: str
) -> None:
    cluster.apply(cluster.plan("before", database, "SELECT"))
    cluster.wait("hooproleplan/before")
    before, credentials = cluster.get("hooproleplan/before"), cluster.secret("before-credentials")
    killed = leader(operator)
    assert killed in pods(operator)
    operator.kubectl("delete", "pod", killed, "--grace-period=0", "--force")
    eventually(lambda: leader(operator) not in ("", killed), seconds=60, what="another leader")
    cluster.apply(cluster.plan("after", database, "SELECT"))
    cluster.wait("hooproleplan/after")
    assert cluster.get("hooproleplan/before")["status"]["sid"] == before["status"]["sid"]
    assert cluster.secret("before-credentials") == credentials
    log_in(credentials).close()


def test_a_rollout_changes_no_password_and_plans_are_carried_out_after_it(
    operator: Cluster, cluster: Cluster, database: str
) -> None:
    cluster.apply(cluster.plan("reader", database, "SELECT"))
    cluster.wait("hooproleplan/reader")
    credentials = cluster.secret("reader-credentials")
    operator.kubectl("rollout", "restart", "deployment", f"--selector={OPERATOR}")
    operator.kubectl("rollout", "status", "deployment", f"--selector={OPERATOR}", "--timeout=3m")
    cluster.apply(cluster.plan("reader", database, "SELECT", "INSERT"))
    cluster.wait("hooproleplan/reader", "jsonpath={.status.observedGeneration}=2")
    cluster.wait("hooproleplan/reader")
    assert cluster.secret("reader-credentials") == credentials
    with log_in(credentials) as login:
        login.execute("INSERT INTO orders (what) VALUES ('tea')")


def test_a_pod_logs_in_with_what_its_secret_says(operator: Cluster, cluster: Cluster, database: str) -> None:
    cluster.apply(cluster.plan("reader", database, "SELECT"))
    cluster.wait("hooproleplan/reader")
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "username", "PGPASSWORD": "password"}
    environment = [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": "reader-credentials", "key": key}}}
        for variable, key in (names | {"PGDATABASE": "database", "PGSSLMODE": "sslmode"}).items()
    ]
    container = {
        "name": "psql",
        "image": CLIENT,
        "command": ["psql", "--no-psqlrc", "--command=SELECT count(*) FROM orders"],
        "env": environment,
    }
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "client"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
    )
    cluster.kubectl("wait", "pod/client", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")

"""A Kubernetes cluster in containers, with the operator out of its own image and a PostgreSQL beside it."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local import cluster, gobuild, ports
from local.errors import StackError
from local.helm import helm
from local.progress import say, step
from local.stack import CHECKOUT, OPERATOR_NAMESPACE

E2E = CHECKOUT / "deploy/e2e"
KIND = gobuild.Recipe(
    name="kind",
    module=E2E / "kind",
    packages=["sigs.k8s.io/kind"],
    programs=["kind"],
    announcement="Building kind from source, once: some seconds.",
)
IMAGE = "hoop-operator"
TAG = "e2e"
POSTGRESQL_NAMESPACE = "postgresql"
NODE_PORT = 30432
"""Where the Service in `deploy/e2e/postgresql.yaml` is to be had on the node."""


def has_engine() -> bool:
    """Say whether there is a container engine on this machine that answers."""
    docker = shutil.which("docker")
    return docker is not None and _succeeds(docker, "info")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def throwaway_cluster(directory: Path) -> Iterator[Mapping[str, str]]:
    """Run a cluster with operator and server while the body runs; yield the variables that the tests need.

    Raises
    ------
    StackError
        Something of it did not come up; the message holds what the program at fault said.
    """
    name = f"hoop-e2e-{secrets.token_hex(4)}"
    kubeconfig = directory / "kubeconfig"
    kind = gobuild.built(KIND) / "kind"
    with step("Image"):
        _run("docker", "build", f"--tag={IMAGE}:{TAG}", str(CHECKOUT))
    try:
        port = ports.choose(directory / "ports/postgresql")
        with step("Kubernetes in containers"):
            _create(kind, name, kubeconfig, directory / "kind.json", port)
            _run(kind, "load", "docker-image", f"{IMAGE}:{TAG}", f"--name={name}")
        password = secrets.token_urlsafe(24)
        with step("PostgreSQL"):
            _install_postgresql(kubeconfig, password)
        with step("Chart, installed with one Pod and upgraded to two"):
            for replicas in (1, 2):
                install_chart(kubeconfig, f"replicaCount={replicas}", wait=True)
        yield {
            "KUBECONFIG": str(kubeconfig),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": password,
            "HOOP_E2E_HOST": f"postgresql.{POSTGRESQL_NAMESPACE}.svc",
            "HOOP_E2E_PORT": "5432",
        }
    except BaseException:
        _tell_what_happened(kubeconfig)
        raise
    finally:
        _run(kind, "delete", "cluster", f"--name={name}")


def install_chart(kubeconfig: Path, *values: str, wait: bool = False) -> None:
    """Install the chart with the image that was built here, or upgrade what is installed.

    Parameters
    ----------
    kubeconfig
        A cluster admin's.
    values
        Values of the chart, as `--set` takes them.
    wait
        Wait until its Pods are ready.
    """
    image = (f"image.repository={IMAGE}", f"image.tag={TAG}", "image.pullPolicy=Never")
    _run(
        helm(4),
        *("upgrade", "--install", "hoop-operator", str(CHECKOUT / "deploy/chart")),
        *(f"--kubeconfig={kubeconfig}", f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace"),
        *(f"--set={value}" for value in (*image, *values)),
        *(("--wait", "--timeout=3m") if wait else ()),
    )


def _create(kind: Path, name: str, kubeconfig: Path, file: Path, port: int) -> None:
    mapping = {"containerPort": NODE_PORT, "hostPort": port, "listenAddress": "127.0.0.1"}
    node = {"role": "control-plane", "extraPortMappings": [mapping]}
    file.write_text(json.dumps({"apiVersion": "kind.x-k8s.io/v1alpha4", "kind": "Cluster", "nodes": [node]}))
    _run(
        *(kind, "create", "cluster", f"--name={name}", f"--config={file}"),
        *(f"--kubeconfig={kubeconfig}", "--wait=3m"),
    )


def _install_postgresql(kubeconfig: Path, password: str) -> None:
    def kubectl(*arguments: str | Path, manifest: str | None = None) -> None:
        cluster.kubectl(kubeconfig, f"--namespace={POSTGRESQL_NAMESPACE}", *arguments, manifest=manifest)

    kubectl("create", "namespace", POSTGRESQL_NAMESPACE)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "postgresql"},
        "stringData": {"password": password},
    }
    kubectl("create", "--filename=-", manifest=json.dumps(secret))
    kubectl("apply", f"--filename={E2E / 'postgresql.yaml'}")
    kubectl("rollout", "status", "statefulset/postgresql", "--timeout=3m")


def _tell_what_happened(kubeconfig: Path) -> None:
    """Print what the Pods say, as far as there are any."""
    for arguments in (
        ("get", "pods,events", "--all-namespaces", "--output=wide"),
        (
            f"--namespace={OPERATOR_NAMESPACE}",
            "logs",
            "--selector=app.kubernetes.io/name=hoop-operator",
            "--tail=200",
        ),
    ):
        try:
            say(cluster.kubectl(kubeconfig, *arguments))
        except StackError as error:
            say(str(error))


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ, check=False
    )
    if done.returncode != 0:
        raise StackError(f"{' '.join(map(str, command[:3]))} failed:\n{done.stdout.strip()}")

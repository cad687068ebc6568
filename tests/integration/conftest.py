"""What integration tests run against: a control plane, a PostgreSQL and an operator of their own."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from integration.administrator import Administrator
from local import cluster, postgresql
from local.postgresql import Server
from local.stack import Stack

POSTGRES_VERSION = os.environ.get("PG") or postgresql.DEFAULT_VERSION


@pytest.fixture(scope="session")
def stack_directory() -> Path:
    return Path(os.environ["HOOP_TEST_STACK"])


@pytest.fixture(scope="session", autouse=True)
def _only_our_own_servers(stack_directory: Path) -> Iterator[None]:
    """Keep every client from the cluster and the database that the caller's environment or home names."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [*os.environ]:
            if name.startswith(("PG", "HOOP_LOCAL_", "KUBE")) and name not in {"PG", "KUBEBUILDER_ASSETS"}:
                environment.delenv(name)
        environment.setenv("KUBECONFIG", str(stack_directory / "kubeconfig"))
        environment.setenv("KUBECACHEDIR", str(stack_directory / "kubectl-cache"))
        yield


@pytest.fixture(scope="session")
def stack(stack_directory: Path) -> Stack:
    """A control plane with our kinds and roles, shared by all tests of the run and stopped at its end."""
    stack = Stack(stack_directory)
    with stack.lock():
        stack.start_control_plane()
        stack.apply_manifests()
    return stack


@pytest.fixture(scope="session")
def postgres(stack_directory: Path) -> Server:
    """The PostgreSQL server of the run, in the version that the environment variable PG asks for."""
    stack = Stack(stack_directory)
    with stack.lock():
        return stack.start_postgres(POSTGRES_VERSION)


@pytest.fixture(scope="session")
def operator(stack: Stack, postgres: Server) -> Stack:
    """The stack, with the operator running in it as its own account."""
    with stack.lock():
        stack.start_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "5", "HOOP_RETRY_SECONDS_MAX": "2"})
    return stack


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[Administrator]:
    """A superuser; the databases that it makes are dropped after the test."""
    administrator = Administrator(postgres)
    yield administrator
    await administrator.close()


@pytest.fixture
def namespace(stack: Stack) -> Iterator[str]:
    """A new namespace, deleted after the test."""
    name = f"test-{secrets.token_hex(6)}"
    cluster.kubectl(stack.kubeconfig, "create", "namespace", name)
    yield name
    cluster.kubectl(stack.kubeconfig, "delete", "namespace", name, "--wait=false")

"""What integration tests run against: a control plane, a PostgreSQL and an operator of their own."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hoop_operator.cluster.api import KubernetesApi, connect
from integration.administrator import Administrator
from integration.operator_process import OperatorProcess
from integration.tenant import Tenant
from local import cluster, kubeconfig, postgresql
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
        stack.start_operator({"HOOP_DRIFT_INTERVAL_SECONDS": "2", "HOOP_RETRY_SECONDS_MAX": "2"})
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


@pytest.fixture(scope="session")
async def api(stack: Stack) -> AsyncIterator[KubernetesApi]:
    """The API server, as cluster admin; KUBECONFIG names this stack's."""
    async with connect() as connected:
        yield connected


@pytest.fixture
def tenant(operator: Stack, api: KubernetesApi, namespace: str) -> Tenant:
    """Somebody with a namespace of their own, served by the operator of the stack."""
    return Tenant(api, namespace)


@pytest.fixture
async def database(admin: Administrator) -> str:
    """A database with two tables."""
    name = await admin.create_database()
    session = await admin.connect(name)
    await session.execute("CREATE TABLE orders (id serial, item text); CREATE TABLE customers (id int)")
    return name


@pytest.fixture
async def resource(tenant: Tenant, postgres: Server) -> str:
    """The tenant's resource: the PostgreSQL of the run, as its superuser."""
    name = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.until_resource(name)
    return name


@pytest.fixture(scope="session")
def operator_kubeconfig(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the operator's own account, for operators that tests start themselves."""
    token = cluster.kubectl(
        stack.kubeconfig, "--namespace=hoop-system", "create", "token", "hoop-operator", "--duration=24h"
    )
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    kubeconfig.save(path, kubeconfig.with_token(kubeconfig.read(stack.kubeconfig), token.strip()))
    return path


@pytest.fixture
def own_operator(
    operator_kubeconfig: Path, tmp_path: Path
) -> Iterator[Callable[[Mapping[str, str]], OperatorProcess]]:
    """Makes operators of a test's own, with the settings it gives; they are killed after the test."""
    made: list[OperatorProcess] = []

    def make(settings: Mapping[str, str]) -> OperatorProcess:
        made.append(OperatorProcess(operator_kubeconfig, tmp_path / f"operator-{len(made)}.log", settings))
        return made[-1]

    yield make
    for process in made:
        process.bury()

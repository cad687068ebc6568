"""What integration tests run against: a control plane, a PostgreSQL and an operator of their own."""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi, connect
from integration.administrator import Administrator
from integration.authority import Authority
from integration.namespaces import Namespaces, rbac_of_lease
from integration.operator_process import OperatorProcess
from integration.registrant import CONFIDENTIAL, Registrant
from integration.roles import Roles
from integration.tenant import Tenant
from local import cluster, kubeconfig, postgresql
from local.postgresql import Server
from local.stack import Stack

POSTGRES_VERSION = os.environ.get("PG") or postgresql.DEFAULT_VERSION
OPERATORS_OF_THE_RUN = {
    "operator",
    "planted_operator",
    "busy_operator",
    "patient_operator",
    "referring_operator",
}
"""Fixtures that are an operator which serves more than one test."""


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
def namespaces(stack: Stack) -> Namespaces:
    """The namespaces of the run, and what operators have to be told of them."""
    return Namespaces(stack)


@pytest.fixture(scope="session")
def operator(stack: Stack, postgres: Server, namespaces: Namespaces) -> Stack:
    """The stack, with the operator running in it as its own account."""
    with stack.lock():
        stack.start_operator(
            {
                "HOOP_DRIFT_INTERVAL_SECONDS": "2",
                "HOOP_RETRY_SECONDS_MAX": "2",
                "HOOP_LOCK_TIMEOUT_SECONDS": "1",
                **namespaces.of_the_run,
            }
        )
    return stack


@pytest.fixture
async def admin(postgres: Server) -> AsyncIterator[Administrator]:
    """A superuser; the databases that it makes are dropped after the test."""
    administrator = Administrator(postgres)
    yield administrator
    await administrator.close()


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    """The server without an operator: roles are planned and applied by the test itself, and dropped after it."""
    roles = Roles(admin)
    yield roles
    await roles.close()


@pytest.fixture
def new_namespace(namespaces: Namespaces, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes namespaces that the operators of the test serve; they are taken away after it."""
    shared = not OPERATORS_OF_THE_RUN.isdisjoint(request.fixturenames)
    taken: list[str] = []

    def take() -> str:
        taken.append(namespaces.take(shared=shared))
        return taken[-1]

    yield take
    for name in taken:
        namespaces.give_back(name)


@pytest.fixture
def namespace(new_namespace: Callable[[], str]) -> str:
    """A namespace with nothing in it."""
    return new_namespace()


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
    operator_kubeconfig: Path,
    tmp_path: Path,
    stack: Stack,
    namespaces: Namespaces,
    namespace: str,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[Mapping[str, str]], OperatorProcess]]:
    """Makes operators of a test's own, with the settings it gives; they are killed after the test."""
    made: list[OperatorProcess] = []

    def make(settings: Mapping[str, str]) -> OperatorProcess:
        log = tmp_path / f"operator-{len(made)}.log"
        made.append(OperatorProcess(operator_kubeconfig, log, {**namespaces.of_the_test, **settings}))
        if "HOOP_LEASE_NAMESPACE" in settings:
            agent_id = made[-1].environment["HOOP_AGENT_ID"]
            manifest = rbac_of_lease(agent_id)
            cluster.kubectl(stack.kubeconfig, "apply", "--filename=-", manifest=manifest)
        return made[-1]

    yield make
    for process in made:
        process.bury()
    if made and OPERATORS_OF_THE_RUN.isdisjoint(request.fixturenames):
        for name in namespaces.taken:
            namespaces.let_go(name)


@pytest.fixture(scope="session")
def client_authority() -> Authority:
    """Who certifies the clients of the TLS server."""
    return Authority("clients")


@pytest.fixture(scope="session")
async def planted_operator(
    operator_kubeconfig: Path,
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Server,
    client_authority: Authority,
    namespaces: Namespaces,
) -> AsyncIterator[OperatorProcess]:
    """An operator with everything in its environment and home that libpq would like to use.

    What is planted is either good for a login that the resource's own credentials do not allow, or bad enough to
    let a connection fail that they do allow.
    """
    home = tmp_path_factory.mktemp("home")
    client = client_authority.issue("certified")
    login = f"*:*:*:*:{postgres.password}\n"
    service = f"[planted]\nhost=127.0.0.1\nport=1\nuser=nobody\npassword={postgres.password}\n"
    for path, content in {
        ".pgpass": login,
        ".pg_service.conf": service,
        ".postgresql/root.crt": Authority("nobody knows").certificate,
        ".postgresql/root.crl": "no list",
        ".postgresql/postgresql.crt": client.certificate,
        ".postgresql/postgresql.key": client.key,
    }.items():
        (home / path).parent.mkdir(exist_ok=True)
        (home / path).write_text(content)
        (home / path).chmod(0o600)
    (home / "tmp").mkdir()
    process = OperatorProcess(
        operator_kubeconfig,
        home / "operator.log",
        {
            "HOOP_CONNECT_TIMEOUT_SECONDS": "5",
            "HOOP_RETRY_SECONDS_MAX": "2",
            "HOOP_DRIFT_INTERVAL_SECONDS": "3600",
            **namespaces.of_the_run,
            "HOOP_ALLOWED_HOSTS": '["127.0.0.0/8", "localhost", "*.svc"]',
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PGSERVICE": "planted",
            "PGHOST": str(home),
            "PGHOSTADDR": "127.0.0.1",
            "PGPORT": "1",
            "PGUSER": postgres.user,
            "PGPASSWORD": postgres.password,
            "PGPASSFILE": str(home / ".pgpass"),
            "PGDATABASE": "planted",
            "PGOPTIONS": "-c nothing.like=that -c statement_timeout=1 -c role=nobody",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(home / ".postgresql/root.crt"),
            "PGSSLCRL": str(home / ".postgresql/root.crl"),
            "PGSSLCERT": str(home / ".postgresql/postgresql.crt"),
            "PGSSLKEY": str(home / ".postgresql/postgresql.key"),
            "PGSSLNEGOTIATION": "direct",
            "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
            "PGGSSENCMODE": "require",
            "PGCHANNELBINDING": "require",
            "PGREQUIREAUTH": "none",
            "PGTARGETSESSIONATTRS": "standby",
            "PGCLIENTENCODING": "LATIN1",
            "PGDATESTYLE": "nonsense",
        },
    )
    await process.start()
    yield process
    process.bury()


@pytest.fixture
async def registrant(
    planted_operator: OperatorProcess, api: KubernetesApi, namespace: str, postgres: Server
) -> AsyncIterator[Registrant]:
    """Somebody with a namespace; afterwards no password is in its events and statuses, nor in the operator's log."""
    registrant = Registrant(api, namespace, planted_operator.agent_id)
    yield registrant
    told = [planted_operator.said()]
    for path in (paths.events(namespace), paths.hoop_resources(namespace), paths.hoop_role_plans(namespace)):
        items = (await api.get(path))["items"]
        told += [json.dumps({"note": item.get("note"), "status": item.get("status")}) for item in items]
    for text in told:
        for confidential in (postgres.password, CONFIDENTIAL, "SCRAM-SHA-256$", "PRIVATE KEY"):
            assert confidential not in text

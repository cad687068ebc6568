"""Resources and plans kept by a real Argo CD, from the shipped samples in a local Git repository."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from integration.administrator import Administrator
from integration.argo import DEPLOY, NAMESPACE, Argo, Repository, healths, operation, state
from integration.namespaces import CLUSTER_WIDE
from integration.operator_process import OperatorProcess
from integration.tenant import Tenant, eventually, ready, roles_of
from local.postgresql import Server
from local.stack import Stack

# Argo CD makes the namespaces of the samples.
pytestmark = [pytest.mark.version_independent, CLUSTER_WIDE]

SAMPLES = DEPLOY / "argocd/samples"
CUSTOMIZATIONS = DEPLOY / "argocd/resource_customizations/hoop.dev"


@pytest.fixture(scope="module")
def argo(stack: Stack, api: KubernetesApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Argo]:
    argo = Argo(stack, api, tmp_path_factory.mktemp("argo"))
    try:
        argo.start()
        yield argo
    finally:
        argo.stop()
        argo.uninstall()
        with stack.lock():
            stack.apply_manifests()  # the kinds and what else an Application of the chart has had in hand


@pytest.fixture(scope="module")
async def operator_of_argo(
    operator_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OperatorProcess]:
    process = OperatorProcess(
        operator_kubeconfig,
        tmp_path_factory.mktemp("argo-operator") / "operator.log",
        {"HOOP_DRIFT_INTERVAL_SECONDS": "2", "HOOP_RETRY_SECONDS_MAX": "2"},
    )
    await process.start()
    yield process
    process.bury()


class Team(NamedTuple):
    """A team whose namespace, folder in Git and database have one name."""

    name: str
    tenant: Tenant
    application: str

    @property
    def plans(self) -> str:
        """The file in Git with its plans."""
        return f"teams/{self.name}/plans.yaml"


def sample(name: str, repository: Repository, **names: str) -> dict[str, Any]:
    """A shipped sample, with another repository and other names in it."""
    text = (SAMPLES / name).read_text()
    for url in (
        "https://git.example.com/platform/databases.git",
        "https://git.example.com/platform/hoop-operator.git",
    ):
        text = text.replace(url, repository.url)
    for old, new in {"duration: 10s": "duration: 1s", **names}.items():
        text = text.replace(old, new)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def add_team(
    repository: Repository, folder: str, name: str, server: Server, operator: OperatorProcess
) -> None:
    """Put the sample folder of a team into Git, with our server and its database in it."""
    resource = yaml.safe_load_all((SAMPLES / f"teams/{folder}/postgres.yaml").read_text())
    secret, declared = resource
    secret["stringData"] = {
        "host": server.host,
        "port": str(server.port),
        "username": server.user,
        "password": server.password,
    }
    declared["spec"] |= {"resourceName": name, "agentId": operator.agent_id}
    plans = list(yaml.safe_load_all((SAMPLES / f"teams/{folder}/plans.yaml").read_text()))
    for plan in plans:
        plan["spec"]["scopes"] = [name]
    repository.write(f"teams/{name}/postgres.yaml", [secret, declared])
    repository.write(f"teams/{name}/plans.yaml", plans)


async def make_database(admin: Administrator, name: str) -> None:
    await admin.create_database(name)
    session = await admin.connect(name)
    await session.execute("CREATE TABLE orders (id int)")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
async def shop(
    argo: Argo,
    operator_of_argo: OperatorProcess,
    api: KubernetesApi,
    namespace: str,
    repository: Repository,
    admin: Administrator,
    postgres: Server,
) -> AsyncIterator[Team]:
    """The sample Application of plain manifests, not yet created; whatever becomes of it is removed after the test."""
    await make_database(admin, namespace)
    add_team(repository, "shop", namespace, postgres, operator_of_argo)
    repository.commit()
    application = f"{namespace}-postgres"
    argo.apply(sample("shop.yaml", repository, shop=namespace))
    team = Team(namespace, Tenant(api, namespace, operator_of_argo.agent_id), application)
    yield team
    argo.kubectl(
        "-n",
        NAMESPACE,
        "delete",
        "applications.argoproj.io",
        "--ignore-not-found",
        "--timeout=300s",
        application,
    )


def change(
    repository: Repository, team: Team, plan: str, annotations: dict[str, str] | None = None, **spec: Any
) -> None:
    """Commit a change of a plan."""
    plans = repository.read(team.plans)
    (changed,) = (body for body in plans if body["metadata"]["name"] == plan)
    changed["spec"] |= spec
    changed["metadata"]["annotations"] |= annotations or {}
    repository.write(team.plans, plans)
    repository.commit()


async def until_health(argo: Argo, team: Team, name: str, health: str, part: str = "") -> str:
    """Wait until an object of a team's Application has a health whose message has that part; return the message."""
    app = await argo.until(
        team.application,
        lambda app: (told := healths(app).get(name, ("", "")))[0] == health and part in told[1],
        f"{name} is {health}, {part}",
    )
    return healths(app)[name][1]


async def checksum(team: Team, plan: str) -> str:
    found: str = (await team.tenant.plans())[plan]["status"]["plan"]["checksum"]
    return found


@pytest.mark.parametrize("kind", ["HoopResource", "HoopRolePlan"])
def test_argo_cds_own_command_judges_the_test_data_as_expected(argo: Argo, kind: str) -> None:
    tests = yaml.safe_load((CUSTOMIZATIONS / kind / "health_test.yaml").read_text())["tests"]
    judged = {test["inputPath"]: argo.health(CUSTOMIZATIONS / kind / test["inputPath"]) for test in tests}
    assert judged == {test["inputPath"]: test["healthStatus"] for test in tests}


async def test_waves_hold_and_a_plan_that_waits_is_suspended_until_somebody_approves_with_kubectl(
    argo: Argo, shop: Team
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    # What waits for a person keeps no sync open.
    app = await argo.until(shop.application, lambda app: operation(app).get("phase") == "Succeeded", "a sync")
    assert healths(app)["my-postgres"] == ("Healthy", "Registered")
    assert healths(app)["orders-ro"] == ("Healthy", "Applied")
    status, message = healths(app)["orders-rw"]
    assert status == "Suspended"
    assert message.startswith("PendingApproval: waits for approval: creates the role; ")
    assert "to apply exactly this, run: kubectl" in message
    # Nothing came before what it needs: it would have failed once.
    assert [run["status"] for run in (await shop.tenant.plans())["orders-ro"]["status"]["history"]] == [
        "success"
    ]
    with argo.witness(shop.application) as states:
        await shop.tenant.annotate("orders-rw", approve=await checksum(shop, "orders-rw"))
        await argo.until_healthy(shop.application)
        await argo.compare(shop.application)
        assert {told.split()[0] for told in states()} == {"Synced"}
    annotations = (await shop.tenant.plans())["orders-rw"]["metadata"]["annotations"]
    assert "hoop.dev/approve" in annotations  # not healed away


async def test_nothing_that_the_operator_does_is_out_of_sync(
    argo: Argo, shop: Team, admin: Administrator, api: KubernetesApi
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    plan = (await shop.tenant.plans())["orders-ro"]
    session = await admin.connect(shop.name)

    async def runs(trigger: str) -> bool:
        history = (await shop.tenant.plans())["orders-ro"]["status"]["history"]
        return trigger in {run["trigger"] for run in history}

    with argo.witness(shop.application) as states:
        await shop.tenant.annotate("orders-ro", reconcile_at="1")
        await eventually(lambda: runs("annotation"), what="a reconcile")
        await argo.compare(shop.application)
        password = (await shop.tenant.secret("orders-ro"))["password"]
        await shop.tenant.annotate("orders-ro", rotate_at="1")

        async def rotated() -> bool:
            return (await shop.tenant.secret("orders-ro"))["password"] != password

        await eventually(rotated, what="a rotation")
        await argo.compare(shop.application)
        role = sql.Identifier(plan["status"]["role"])
        await session.execute(sql.SQL("REVOKE SELECT ON orders FROM {}").format(role))
        await eventually(lambda: runs("drift"), what="a drift repair")
        await argo.compare(shop.application)
        await api.delete(paths.secret(shop.name, "orders-ro-credentials"))

        async def restored() -> bool:
            return bool(await shop.tenant.secret("orders-ro"))

        await eventually(restored, what="the Secret is back")
        await argo.compare(shop.application)
        assert {told.split()[0] for told in states()} == {"Synced"}
    assert (await shop.tenant.plans())["orders-ro"]["metadata"]["generation"] == 1


async def test_health_follows_the_operator_and_a_slip_of_hand_is_healed(
    argo: Argo, shop: Team, repository: Repository, operator_of_argo: OperatorProcess
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    operator_of_argo.kill()
    change(repository, shop, "orders-ro", scopes=[shop.name, "no_such_database"])
    await argo.compare(shop.application)
    assert await until_health(argo, shop, "orders-ro", "Progressing") == "Waiting for the operator"
    await operator_of_argo.start()
    message = await until_health(argo, shop, "orders-ro", "Degraded")
    failed = (await shop.tenant.plans())["orders-ro"]
    assert message == "DatabaseNotFound: " + ready(failed)[1]
    assert "no_such_database" in message
    assert state((await argo.applications())[shop.application]) == ("Synced", "Degraded")
    change(repository, shop, "orders-ro", scopes=[shop.name])
    await argo.compare(shop.application)
    await until_health(argo, shop, "orders-ro", "Healthy")

    async def healed() -> bool:
        plan = (await shop.tenant.plans())["orders-ro"]
        return plan["spec"]["privileges"] == ["SELECT"] and ready(plan)[0] == "Applied"

    with argo.witness(shop.application) as states:
        await shop.tenant.change("orders-ro", privileges=["SELECT", "DELETE"])
        await argo.until(
            shop.application, lambda _: any("OutOfSync" in told for told in states()), "a slip is seen"
        )
        await eventually(healed, what="Git has the last word")
    change(repository, shop, "orders-ro", suspend=True)
    await argo.compare(shop.application)
    await until_health(argo, shop, "orders-ro", "Suspended", "Suspended: spec.suspend is true")


async def test_an_approval_through_git_takes_the_verb_and_holds_for_one_apply(
    argo: Argo, shop: Team, repository: Repository
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    due = await checksum(shop, "orders-rw")
    change(repository, shop, "orders-rw", annotations={"hoop.dev/approve": due})
    await argo.compare(shop.application)
    app = await argo.until(
        shop.application,
        lambda app: "ask for the ClusterRole hoop-approve" in operation(app).get("message", ""),
        "the account of Argo CD may not approve",
    )
    assert healths(app)["orders-rw"][0] == "Suspended"
    account = f"--serviceaccount={NAMESPACE}:argocd-application-controller"
    argo.kubectl(
        "-n", shop.name, "create", "rolebinding", "argocd-approves", "--clusterrole=hoop-approve", account
    )
    await argo.until_healthy(shop.application)
    with argo.witness(shop.application) as states:
        await argo.compare(shop.application)
        assert set(states()) == {"Synced Healthy"}
    change(repository, shop, "orders-rw", privileges=["SELECT"])
    await argo.compare(shop.application)
    message = await until_health(argo, shop, "orders-rw", "Suspended")
    assert "the annotation hoop.dev/approve approves another plan" in message
    assert await checksum(shop, "orders-rw") != due


async def test_pruning_waits_for_the_plans_of_others_and_goes_on_when_they_are_gone(
    argo: Argo, shop: Team, repository: Repository, admin: Administrator
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    await shop.tenant.plan("by-hand", "my-postgres", scopes=[shop.name], privileges=["SELECT"])
    await shop.tenant.until_plans(["by-hand"])
    session = await admin.connect()
    repository.remove(f"teams/{shop.name}")
    repository.write(
        f"teams/{shop.name}/secret.yaml",
        [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}}],
    )
    repository.commit()
    await argo.compare(shop.application)
    await shop.tenant.until_resource("my-postgres", "InUse")
    assert await until_health(argo, shop, "my-postgres", "Progressing") == "Pending deletion"
    assert await roles_of(session, shop.name, "orders-ro") == []
    assert await roles_of(session, shop.name, "by-hand") != []
    await shop.tenant.delete("by-hand")
    await argo.until_healthy(shop.application)
    assert await shop.tenant.resources() == {}
    assert await roles_of(session, shop.name, "by-hand") == []


async def test_deleting_the_application_removes_roles_before_resource_and_credentials(
    argo: Argo, shop: Team, admin: Administrator, api: KubernetesApi
) -> None:
    await argo.until_healthy(shop.application, "Suspended")
    session = await admin.connect()
    assert await roles_of(session, shop.name, "orders-ro") != []
    argo.kubectl("-n", NAMESPACE, "delete", "applications.argoproj.io", shop.application, "--wait=false")
    await argo.until_gone(shop.application)
    assert await shop.tenant.plans() == await shop.tenant.resources() == {}
    assert await roles_of(session, shop.name, "orders-ro") == []
    for name in ("my-postgres-admin", "orders-ro-credentials"):
        with pytest.raises(ObjectNotFound):
            await api.get(paths.secret(shop.name, name))
    warnings = [event for event in await shop.tenant.events("orders-ro") if event[0] == "Warning"]
    assert warnings == []


async def test_an_application_set_makes_an_application_for_each_team(
    argo: Argo,
    operator_of_argo: OperatorProcess,
    api: KubernetesApi,
    namespace: str,
    repository: Repository,
    admin: Administrator,
    postgres: Server,
) -> None:
    teams = {folder: f"{namespace}-{folder}" for folder in ("shop", "stock")}
    for folder, name in teams.items():
        await make_database(admin, name)
        add_team(repository, folder, name, postgres, operator_of_argo)
    repository.commit()
    argo.apply(sample("teams.yaml", repository))
    try:
        await argo.until_healthy(f"{teams['shop']}-postgres", "Suspended")
        await argo.until_healthy(f"{teams['stock']}-postgres")
        assert {ready(plan)[0] for plan in (await Tenant(api, teams["stock"]).plans()).values()} == {
            "Applied"
        }
    finally:
        argo.kubectl("-n", NAMESPACE, "delete", "applicationsets.argoproj.io", "postgres")
        await asyncio.gather(*(argo.until_gone(f"{name}-postgres") for name in teams.values()))
        argo.kubectl("delete", "namespace", "--wait=false", *teams.values())


async def test_the_chart_is_in_sync_and_leaves_the_kinds_when_its_application_is_deleted(
    argo: Argo, namespace: str, repository: Repository, api: KubernetesApi
) -> None:
    shutil.copytree(DEPLOY / "chart", repository.directory / "deploy/chart")
    repository.commit()
    application = sample("operator.yaml", repository)
    application["metadata"]["name"] = application["spec"]["source"]["helm"]["releaseName"] = namespace
    application["spec"]["destination"]["namespace"] = namespace
    # A further release: the cluster has these already, from the one that the other tests need.
    application["spec"]["source"]["helm"]["valuesObject"] |= {
        "admissionPolicy": {"enabled": False},
        "rbac": {"aggregateClusterRoles": False},
    }
    argo.apply(application)
    await argo.until(namespace, lambda app: operation(app).get("phase") == "Succeeded", "a sync")
    app = await argo.in_sync(namespace)
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{namespace}-hoop-operator"
    (container,) = (await api.get(deployment))["spec"]["template"]["spec"]["containers"]
    # As the README has Helm name it: no image is published.
    assert container["image"] == "registry.example.com/hoop-operator:mine"
    kinds = {
        item["name"] for item in app["status"]["resources"] if item["kind"] == "CustomResourceDefinition"
    }
    assert kinds == {"hoopresources.hoop.dev", "hooproleplans.hoop.dev"}
    argo.kubectl("-n", NAMESPACE, "delete", "applications.argoproj.io", namespace, "--wait=false")
    await argo.until_gone(namespace)
    assert "No resources found" not in argo.kubectl("get", "crd", *kinds)
    with pytest.raises(ObjectNotFound):
        await api.get(deployment)

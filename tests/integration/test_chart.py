"""The chart and the plain manifests, given to Helm 3 and 4, kubectl and a real API server."""

import base64
import json
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from generated import CHART, MANIFESTS, RELEASE, render
from hoop_operator.settings import Settings
from integration.rights import until_in_force
from local import cluster
from local.errors import StackError
from local.helm import helm
from local.stack import CHECKOUT, Stack

pytestmark = pytest.mark.version_independent

GOLDENS = Path(__file__).parent / "chart"
HELMS = pytest.mark.parametrize("major", [3, 4])
MONITORING = "--api-versions=monitoring.coreos.com/v1"
OF_THE_CLUSTER = ("crds.enabled=false", "admissionPolicy.enabled=false", "rbac.aggregateClusterRoles=false")
"""Off, the chart makes nothing that a second release would have, too."""

KINDS = sorted(
    yaml.safe_load(file.read_text())["metadata"]["name"] for file in (CHECKOUT / "crds").glob("*.yaml")
)


def objects_of(*arguments: str, major: int = 4, release: str = RELEASE) -> list[dict[str, Any]]:
    rendered = render(*arguments, major=major, release=release)
    return [document for document in yaml.safe_load_all(rendered) if document]


def sets(*values: str) -> tuple[str, ...]:
    return tuple(f"--set={value}" for value in values)


def of_kind(kind: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]


# What is rendered


@HELMS
def test_the_chart_passes_strict_linting(major: int) -> None:
    command = [str(helm(major)), "lint", "--strict", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- our own Helm
    assert done.returncode == 0, done.stdout


@HELMS
@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.values.yaml")), ids=lambda golden: golden.name)
def test_the_chart_renders_what_was_looked_at(major: int, golden: Path) -> None:
    """Run with UPDATE_GOLDENS=1 to write the files anew, and look at what changed."""
    rendered = render(f"--values={golden}", MONITORING, "--set=crds.enabled=false", major=major)
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    documents.sort(
        key=lambda found: (found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"])
    )
    text = yaml.safe_dump_all(documents, sort_keys=False, width=110)
    expected = golden.with_name(golden.name.replace(".values.", ".rendered."))
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.values.yaml")), ids=lambda golden: golden.name)
def test_all_that_selects_pods_selects_those_of_one_deployment_and_no_others(golden: Path) -> None:
    rendered = objects_of(f"--values={golden}", MONITORING)
    pods = {found["metadata"]["name"]: found["spec"]["template"] for found in of_kind("Deployment", rendered)}
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        for found in of_kind(kind, rendered):
            own = found["metadata"]["name"].removesuffix("-metrics")
            assert selected(found["spec"].get("podSelector") or found["spec"]["selector"], pods) == [own], (
                found
            )
    for name, template in pods.items():
        for constraint in template["spec"]["topologySpreadConstraints"]:
            assert selected(constraint["labelSelector"], pods) == [name]
    services = {found["metadata"]["name"]: found for found in of_kind("Service", rendered)}
    for monitor in of_kind("ServiceMonitor", rendered):
        scraped = f"{monitor['metadata']['name']}-metrics"
        assert selected(monitor["spec"]["selector"], services) == [scraped]


def selected(selector: dict[str, Any], objects: dict[str, dict[str, Any]]) -> list[str]:
    """The names of the objects that have all labels of a selector; in a Service it is without matchLabels."""
    wanted = selector.get("matchLabels", selector).items()
    return [name for name, found in objects.items() if wanted <= found["metadata"]["labels"].items()]


def test_every_object_has_the_common_labels_and_annotations() -> None:
    for found in objects_of(f"--values={GOLDENS / 'everything.values.yaml'}", MONITORING):
        if found["metadata"]["name"] != "hoop-operator-extra":  # the user's own
            assert found["metadata"]["labels"]["team"] == "platform", found
            assert found["metadata"]["annotations"]["contact"] == "platform@example.com", found


def test_the_kinds_of_the_chart_are_those_of_the_project() -> None:
    kinds = of_kind("CustomResourceDefinition", objects_of())
    for kind in kinds:
        assert kind["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        del kind["metadata"]["labels"]
    originals = [yaml.safe_load(file.read_text()) for file in (CHECKOUT / "crds").glob("*.yaml")]
    assert sorted(kinds, key=str) == sorted(originals, key=str)


@HELMS
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("replicas=3", ["replicas", "not allowed"]),
        ("settings.lockTimeout=4", ["settings", "lockTimeout", "not allowed"]),
        ("settings.logLevel=info", ["settings", "logLevel", "DEBUG|INFO|WARNING|ERROR"]),
        ("settings.leaseSeconds=1", ["settings", "leaseSeconds", "5"]),
        ("watchNamespaces=shop", ["watchNamespaces", "array"]),
        ("agentId=me", ["agentId", "pattern"]),
        ("image.digest=1a2b", ["image", "digest", "sha256:"]),
        ("metrics.serviceMonitor.renderMode=maybe", ["serviceMonitor", "renderMode", "skipIfMissing"]),
        ("extraEnv[0].name=HOOP_LOG_LEVEL", ["extraEnv: HOOP_LOG_LEVEL is the chart's to set"]),
        ("extraEnv[0].name=HOOP_AGENT_ID", ["extraEnv: HOOP_AGENT_ID is the chart's to set"]),
        ("extraEnv[0].name=A,extraEnv[1].name=A", ["extraEnv: A is there twice"]),
        ("podSecurityContext=null", ["podSecurityContext"]),
        ("containerSecurityContext=null", ["containerSecurityContext"]),
        ("watchNamespaces=null", ["watchNamespaces"]),
        ("networkPolicy.databasePorts=null", ["networkPolicy", "databasePorts"]),
        ("image.tag= v1", ["image", "tag", "pattern"]),
        ("fullnameOverride=1abc", ["fullnameOverride", "pattern"]),
        ("serviceAccount.name=UPPER", ["serviceAccount", "name", "pattern"]),
        ("podDisruptionBudget.maxUnavailable=abc", ["maxUnavailable", "%"]),
        ("commonLabels.team=a b", ["commonLabels", "team", "pattern"]),
        ("podLabels.a b=c", ["a b", "pattern"]),
        (r"commonLabels.app\.kubernetes\.io/name=x", ["commonLabels: app.kubernetes.io/name tells the Pods"]),
        (
            r"podLabels.app\.kubernetes\.io/instance=x",
            ["podLabels: app.kubernetes.io/instance tells the Pods"],
        ),
        ("serviceAccount.create=false", ["serviceAccount.name: name the account"]),
        (
            "api.enabled=true,api.namespace=shop,watchNamespaces={billing,hr}",
            ["api.namespace: the HTTP API would serve shop, which is none of watchNamespaces (billing, hr)"],
        ),
        (
            "api.enabled=true,watchNamespaces={billing}",
            [
                "serve hoop-system, the release's own since api.namespace is empty, which is none of",
                "billing",
            ],
        ),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(major: int, value: str, names: list[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(*sets(value), major=major)
    assert [name for name in names if name not in refused.value.stderr] == []


@HELMS
@pytest.mark.parametrize("release", ["1st", "my.release"])
def test_a_release_after_which_no_service_can_be_named_is_refused(major: int, release: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(major=major, release=release)
    assert f"the name of the release, {release}: Services are named after it" in refused.value.stderr
    (service,) = of_kind("Service", objects_of("--set=fullnameOverride=first", major=major, release=release))
    assert service["metadata"]["name"] == "first-metrics"


@HELMS
def test_monitoring_is_left_out_refused_or_rendered_where_the_cluster_has_none(major: int) -> None:
    enabled = sets("metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true")

    def kinds(*arguments: str) -> set[str]:
        rendered = objects_of(*enabled, *arguments, major=major)
        return {found["kind"] for found in rendered} & {"ServiceMonitor", "PrometheusRule"}

    assert kinds() == set()
    assert kinds(MONITORING) == {"ServiceMonitor", "PrometheusRule"}
    assert kinds(*sets("metrics.prometheusRule.renderMode=alwaysRender")) == {"PrometheusRule"}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kinds(*sets("metrics.serviceMonitor.renderMode=failIfMissing"))
    assert "metrics.serviceMonitor.renderMode is failIfMissing" in refused.value.stderr


def test_the_alerts_and_the_dashboard_are_those_of_the_project() -> None:
    rendered = objects_of(
        MONITORING, *sets("metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true")
    )
    monitoring = CHECKOUT / "deploy/monitoring"
    (rule,) = of_kind("PrometheusRule", rendered)
    assert rule["spec"] == yaml.safe_load((monitoring / "alerts.yaml").read_text())
    (board,) = of_kind("ConfigMap", rendered)
    assert json.loads(board["data"]["hoop-operator.json"]) == json.loads(
        (monitoring / "dashboard.json").read_text()
    )


def test_the_operator_understands_the_environment_that_the_chart_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (deployment,) = of_kind("Deployment", objects_of(f"--values={GOLDENS / 'namespaced.values.yaml'}"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    understood = Settings()
    assert understood.watch_namespaces == ["shop", "billing"]
    assert understood.allowed_hosts == ["*.db.example.com", "10.0.0.0/8"]
    assert str(understood.agent_id) == "7a0c2a3e-5f0e-4000-8000-000000000001"
    assert (understood.http_port, understood.drift_interval_seconds) == (0, 1_000_000)
    assert understood.lease_seconds == Settings.model_fields["lease_seconds"].default


def test_the_http_api_understands_its_environment_and_has_nothing_to_log_in_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, api = pods_with_everything()
    environment = variables(api)
    assert environment.keys() >= {
        f"HOOP_{name.upper()}" for name in Settings.model_fields if name.startswith("api_")
    }
    for name, variable in environment.items():
        monkeypatch.setenv(name, variable["value"])
    understood = Settings()
    assert (understood.api_namespace, understood.api_plan_applies) == ("shop", True)
    assert api["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in api
    # What Secrets hold is the operator's.
    assert variables(operator)["SHOP_DB"]["valueFrom"]["secretKeyRef"]
    shared = environment.keys() & variables(operator).keys()
    assert shared == {"HOOP_AGENT_ID", "HOOP_LOG_FORMAT", "HOOP_LOG_LEVEL", "HTTPS_PROXY"}
    assert all(environment[name] == variables(operator)[name] for name in shared)


def test_the_pods_of_the_http_api_run_where_and_as_those_of_the_operator() -> None:
    operator, api = pods_with_everything()
    own = {"serviceAccountName", "automountServiceAccountToken", "containers", "volumes"}
    own.add("topologySpreadConstraints")  # each spreads its own Pods
    assert {name: api.get(name) for name in operator.keys() - own} == {
        name: operator[name] for name in operator.keys() - own
    }
    assert api.keys() >= {"affinity", "imagePullSecrets", "nodeSelector", "priorityClassName", "tolerations"}
    (operators,), (apis,) = operator["containers"], api["containers"]
    for name in ("image", "imagePullPolicy", "securityContext"):
        assert apis[name] == operators[name]


def test_a_service_of_the_release_sets_no_variable_of_its_pods() -> None:
    """That of a release named hoop would set HOOP_API_PORT to its URL."""
    for pod in pods_with_everything():
        assert pod["enableServiceLinks"] is False


def pods_with_everything() -> list[dict[str, Any]]:
    """What the Pods of the operator and those of the HTTP API are like where all that can be on is on."""
    rendered = objects_of(
        f"--values={GOLDENS / 'everything.values.yaml'}",
        "--set=agentId=7a0c2a3e-5f0e-4000-8000-000000000001",
    )
    deployments = {found["metadata"]["name"]: found for found in of_kind("Deployment", rendered)}
    return [deployments[name]["spec"]["template"]["spec"] for name in ("hoop", "hoop-api")]


def variables(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (container,) = pod["containers"]
    return {variable["name"]: variable for variable in container["env"]}


def test_with_namespaces_to_watch_the_operator_has_roles_and_no_cluster_role() -> None:
    rendered = objects_of("--set=watchNamespaces={shop,billing}")
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        names = {found["metadata"]["name"] for found in of_kind(kind, rendered)}
        assert names <= {"hoop-view", "hoop-edit", "hoop-admin", "hoop-approve"}
    roles = {role["metadata"]["namespace"]: role["rules"] for role in of_kind("Role", rendered)}
    (cluster_wide,) = (
        role
        for role in of_kind("ClusterRole", objects_of())
        if role["metadata"]["name"] == "hoop-system:hoop-operator"
    )
    assert roles["shop"] == roles["billing"] == cluster_wide["rules"]
    assert roles.keys() == {"shop", "billing", "hoop-system"}


@HELMS
def test_a_label_that_is_given_twice_is_rendered_once_and_the_nearest_counts(major: int) -> None:
    monitoring = ("serviceMonitor", "prometheusRule", "dashboard")
    labels = ["commonLabels", "podLabels", *(f"metrics.{one}.labels" for one in monitoring)]
    values = [
        *(f"{path}.team={path}" for path in labels),
        *(f"metrics.{one}.enabled=true" for one in monitoring),
    ]
    rendered = render(MONITORING, *sets(*values, r"commonLabels.helm\.sh/chart=mine"), major=major)
    assert rendered.count("helm.sh/chart: mine") == 0
    for document in filter(None, rendered.split("---\n")):
        found = yaml.load(document, Loader=UniqueKeys)  # noqa: S506 -- a safe loader
        nearest = {
            "ServiceMonitor": "metrics.serviceMonitor.labels",
            "PrometheusRule": "metrics.prometheusRule.labels",
            "ConfigMap": "metrics.dashboard.labels",
        }.get(found["kind"], "commonLabels")
        assert found["metadata"]["labels"]["team"] == nearest
        if found["kind"] == "Deployment":
            assert found["spec"]["template"]["metadata"]["labels"]["team"] == "podLabels"


def test_a_single_pod_has_no_disruption_budget() -> None:
    assert of_kind("PodDisruptionBudget", objects_of("--set=replicaCount=2"))
    single = sets("replicaCount=1", "api.enabled=true", "api.replicaCount=1")
    assert not of_kind("PodDisruptionBudget", objects_of(*single))


class UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


# What the API server makes of it


class Release:
    """A release in a namespace of its own, without what another release of the cluster has already."""

    def __init__(self, stack: Stack, major: int, namespace: str) -> None:
        self.stack = stack
        self.major = major
        self.namespace = namespace
        self.name = f"r{secrets.token_hex(3)}"

    def helm(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 -- our own Helm
            [helm(self.major), *arguments, f"--namespace={self.namespace}"],
            env={**os.environ, "KUBECONFIG": str(self.stack.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"helm {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def upgrade(self, *values: str, flags: Sequence[str] = ()) -> str:
        return self.helm(
            "upgrade", "--install", self.name, str(CHART), *sets(*OF_THE_CLUSTER, *values), *flags
        )

    def deployment(self, suffix: str = "") -> dict[str, Any]:
        found = cluster.kubectl(
            self.stack.kubeconfig,
            f"--namespace={self.namespace}",
            "get",
            "deployment",
            f"{self.name}-hoop-operator{suffix}".removeprefix("-"),
            "--output=json",
        )
        body: dict[str, Any] = json.loads(found)
        return body

    def environment(self) -> dict[str, str]:
        (container,) = self.deployment()["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable["value"] for variable in container["env"]}


def bash(stack: Stack, script: str, typed: str = "") -> str:
    """What a script prints that a user pastes into a shell with kubectl; it has nothing to complain of."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603 -- our own scripts
        ["/bin/bash", "-o", "pipefail", "-ec", script],
        cwd=CHECKOUT,
        env={**os.environ, "KUBECONFIG": str(stack.kubeconfig), "PATH": programs},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def commands(page: Path, start: str) -> str:
    """The commands of the block of a page that begins with `start`."""
    _, _, rest = page.read_text().partition(f"```sh\n{start}")
    return start + rest.partition("```")[0]


@pytest.fixture
def release(stack: Stack, major: int, namespace: str) -> Iterator[Release]:
    release = Release(stack, major, namespace)
    yield release
    release.helm("uninstall", release.name, "--ignore-not-found")


@HELMS
def test_a_release_is_installed_upgraded_rolled_back_and_uninstalled(release: Release) -> None:
    # Once with all that can be on; only what would be of the cluster, or in another namespace, is not.
    told = release.upgrade(
        "fullnameOverride=",
        "settings.leaseNamespace=null",
        "api.namespace=",
        flags=[f"--values={GOLDENS / 'everything.values.yaml'}"],
    )
    assert f"installed in the namespace {release.namespace} and serves all namespaces" in told
    assert release.deployment()["spec"]["replicas"] == 3
    assert release.deployment("-api")["spec"]["replicas"] == 2
    assert f"http://{release.name}-hoop-operator-api.{release.namespace}.svc:8090/api" in told
    assert f"the HTTP API serves the release's own namespace, {release.namespace}." in told
    creates = f"kubectl -n {release.namespace} create"
    bash(release.stack, "\n".join(line for line in told.splitlines() if line.startswith(creates)))
    dba = f"--as=system:serviceaccount:{release.namespace}:dba"
    until_in_force(lambda: may(release, dba, "approve", "hooproleplans.hoop.dev", release.namespace))
    told = release.upgrade(
        "replicaCount=1", "settings.logLevel=DEBUG", f"watchNamespaces={{{release.namespace}}}"
    )
    assert f"serves {release.namespace}." in told
    assert "replicaCount is 1: nobody takes over" in told
    assert release.deployment()["spec"]["replicas"] == 1
    account = f"--as=system:serviceaccount:{release.namespace}:{release.name}-hoop-operator"
    until_in_force(lambda: not may(release, account, "get", "secrets", "default"))
    until_in_force(lambda: may(release, account, "get", "secrets", release.namespace))
    release.helm("rollback", release.name, "1")
    assert release.deployment()["spec"]["replicas"] == 3
    until_in_force(lambda: may(release, account, "get", "secrets", "default"))
    release.helm("uninstall", release.name)
    until_in_force(lambda: not may(release, account, "get", "secrets", release.namespace))
    left = cluster.kubectl(
        release.stack.kubeconfig,
        f"--namespace={release.namespace}",
        "get",
        "deployments,services,roles,rolebindings,clusterroles,clusterrolebindings",
        f"--selector=app.kubernetes.io/instance={release.name}",
        "--output=name",
    )
    assert left == ""


def test_the_example_that_helm_prints_can_be_pasted(stack: Stack, namespace: str) -> None:
    agent = str(uuid.uuid4())  # nobody's: no operator takes up what the example makes
    release = Release(stack, 4, namespace)
    told = release.upgrade(f"watchNamespaces={{{namespace}}}", f"agentId={agent}", "replicaCount=0")
    example = told[told.index("IFS= read") : told.index("\n\nTo know:")]
    assert "hooproleplan.hoop.dev/orders-ro" in bash(stack, example, typed="word with space \n")
    release.helm("uninstall", release.name)
    read = [f"--namespace={namespace}", "get", "secret", f"{namespace}-db-admin"]
    password = cluster.kubectl(stack.kubeconfig, *read, "--output=jsonpath={.data.password}")
    assert base64.b64decode(password) == b"word with space "


def may(release: Release, account: str, verb: str, resource: str, namespace: str) -> bool:
    try:
        cluster.kubectl(
            release.stack.kubeconfig, "auth", "can-i", verb, resource, f"--namespace={namespace}", account
        )
    except StackError:  # kubectl exits with 1 for a "no"
        return False
    return True


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Stack]:
    """A control plane without our kinds, for a release that has all that a cluster has one of."""
    stack = Stack(tmp_path / "cluster")
    stack.start_control_plane()
    yield stack
    stack.destroy()


def test_kinds_and_objects_outlive_releases_of_either_helm_and_change_hands_between_these_and_kubectl(
    own_cluster: Stack,
) -> None:
    config = own_cluster.kubeconfig
    resource = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": "kept"},
        "spec": {"type": "application", "subtype": "tcp", "envVars": {"A": "b"}},
    }
    for major in (3, 4):
        release = Release(own_cluster, major, "hoop-system")
        release.helm("install", "hoop-operator", str(CHART), "--create-namespace")
        cluster.wait_for_kinds(config, "crd", *KINDS)
        cluster.kubectl(config, "apply", "--server-side", "--filename=-", manifest=json.dumps(resource))
        release.helm("uninstall", "hoop-operator")
        assert cluster.kubectl(config, "get", "hres", "kept", "--output=name")
        names = cluster.kubectl(config, "get", "clusterroles", "--output=name")
        assert "hoop" not in names
    for major, flag in ((3, "-k"), (4, "-f")):
        cluster.kubectl(config, "apply", "--server-side", "--force-conflicts", flag, MANIFESTS)
        assert cluster.kubectl(config, "diff", "--server-side", "--force-conflicts", "-k", MANIFESTS) == ""
        take_over = ["--take-ownership", *(["--force-conflicts"] if major == 4 else [])]
        release = Release(own_cluster, major, "hoop-system")
        release.helm("install", "hoop-operator", str(CHART), *take_over)
        release.name = ""  # that of the chart alone
        set_before = release.environment()
        if major == 4:
            bash(own_cluster, commands(CHECKOUT / "docs/helm.md", "kubectl get -k"))
        assert release.environment() == set_before
        release.helm("upgrade", "hoop-operator", str(CHART), *sets("replicaCount=1", "settings.httpPort=0"))
        assert release.deployment()["spec"]["replicas"] == 1
        assert release.environment() == {**set_before, "HOOP_HTTP_PORT": "0"}
        (container,) = release.deployment()["spec"]["template"]["spec"]["containers"]
        assert "livenessProbe" not in container
        release.helm("uninstall", "hoop-operator")
    assert cluster.kubectl(config, "get", "hres", "kept", "--output=name")


def test_releases_of_one_name_in_two_namespaces_do_not_meet(stack: Stack, namespace: str) -> None:
    first, second = Release(stack, 4, namespace), Release(stack, 4, f"{namespace}-2")
    second.name = first.name
    first.upgrade("replicaCount=0")
    try:
        second.upgrade("replicaCount=0", flags=["--create-namespace"])
        account = f"--as=system:serviceaccount:{second.namespace}:{second.name}-hoop-operator"
        second.helm("uninstall", second.name)
        until_in_force(lambda: not may(second, account, "get", "secrets", "default"))
        until_in_force(
            lambda: may(first, account.replace(second.namespace, namespace), "get", "secrets", "default")
        )
    finally:
        first.helm("uninstall", first.name)
        cluster.kubectl(
            stack.kubeconfig, "delete", "namespace", second.namespace, "--ignore-not-found", "--wait=false"
        )


def test_the_pods_pass_the_restricted_profile_of_pod_security(stack: Stack, namespace: str) -> None:
    kubectl = [f"--namespace={namespace}", "create", "--dry-run=server", "--filename=-"]
    cluster.kubectl(
        stack.kubeconfig, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    for deployment in of_kind("Deployment", objects_of("--set=api.enabled=true")):
        template = deployment["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        cluster.kubectl(stack.kubeconfig, *kubectl, manifest=json.dumps(pod))
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        container["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(StackError, match="restricted"):
            cluster.kubectl(stack.kubeconfig, *kubectl, manifest=json.dumps(pod))

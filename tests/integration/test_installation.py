"""What the documentation has people type to install, upgrade and uninstall, in a cluster that has nothing of ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from generated import CHART
from integration.pages import PAGES, blocks, name_of
from integration.tenant import eventually
from local.helm import helm
from local.stack import CHECKOUT, Stack

pytestmark = pytest.mark.version_independent

HERE = "tests/integration/test_installation.py"
COMMENT = re.compile(r"\s+#.*$", re.MULTILINE)


class Documented(NamedTuple):
    """The command of a page that begins so, in a block that says that it is run here."""

    page: str
    start: str


def documented() -> dict[str, list[str]]:
    """By page, all commands that say that they are run here."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks(page):
            if HERE in block.why_not:
                text = COMMENT.sub("", re.sub(r"\\\n\s*", "", block.text))
                found.setdefault(name_of(page), []).extend(text.split("\n"))
    return {page: [command for command in commands if command] for page, commands in found.items()}


def command_of(step: Documented | str) -> str:
    """What a step has the shell run."""
    if isinstance(step, str):
        return step
    (command,) = {command for command in documented()[step.page] if command.startswith(step.start)}
    return command


def is_seen(value: str, command: str) -> str:
    return f'test "$({command})" = "{value}"'


def image_is(image: str) -> str:
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    return is_seen(image, f"kubectl -n hoop-system get deployment hoop-operator -o {path}")


MINE = "registry.example.com/hoop-operator:mine"
NAMESPACE_OF_THE_API = (
    """jsonpath='{.spec.template.spec.containers[0].env[?(@.name=="HOOP_API_NAMESPACE")].value}'"""
)
KINDS = "hooproleplans.hoop.dev hoopresources.hoop.dev"
NO_KINDS = is_seen("", f"kubectl get crd {KINDS} --ignore-not-found")
SOME_OBJECTS = """kubectl apply -f - <<'EOF'
apiVersion: hoop.dev/v1alpha1
kind: HoopResource
metadata: {name: some, namespace: default}
spec: {type: application, subtype: tcp, envVars: {A: b}}
---
apiVersion: hoop.dev/v1alpha1
kind: HoopRolePlan
metadata: {name: some, namespace: default}
spec: {resourceRef: {name: some}, type: external, role: ro, sourceRole: readers}
EOF"""
ROLLED_OUT = """
generation=$(kubectl -n hoop-system get deployment hoop-operator -o jsonpath={.metadata.generation})
kubectl -n hoop-system patch deployment hoop-operator --subresource=status --type=merge -p "status:
  {observedGeneration: $generation, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}"
"""
"""What the controller of Deployments says when its Pods run; there are no nodes here."""

OPERATIONS = "docs/operations.md"
JOURNEYS: dict[str, tuple[Documented | str, ...]] = {
    "Helm": (
        Documented("README.md", "helm install"),
        image_is(MINE),
        Documented(OPERATIONS, "helm upgrade"),
        image_is(MINE),
        ROLLED_OUT,
        Documented(OPERATIONS, "kubectl -n hoop-system rollout status"),
        Documented(OPERATIONS, "helm rollback"),
        image_is(MINE),
        "kubectl create namespace shop",
        Documented("docs/helm.md", "helm upgrade --install"),
        "kubectl -n hoop-system get deployment,service hoop-operator-api",
        is_seen("shop", f"kubectl -n hoop-system get deployment hoop-operator-api -o {NAMESPACE_OF_THE_API}"),
        SOME_OBJECTS,
        Documented(OPERATIONS, "kubectl delete hooproleplans"),
        Documented(OPERATIONS, "kubectl delete hoopresources"),
        is_seen("", "kubectl get hrp,hres -A -o name"),
        Documented(OPERATIONS, "helm uninstall"),
        is_seen("", "kubectl -n hoop-system get deployments -o name"),
        f"kubectl get crd {KINDS}",
        Documented(OPERATIONS, "kubectl delete crd"),
        NO_KINDS,
    ),
    "kubectl": (
        Documented("README.md", "kubectl apply"),
        Documented("README.md", "kubectl -n hoop-system set image"),
        image_is(MINE),
        Documented(OPERATIONS, "kubectl apply"),
        Documented("README.md", "kubectl -n hoop-system set image"),
        image_is(MINE),
        ROLLED_OUT,
        Documented(OPERATIONS, "kubectl -n hoop-system rollout status"),
        Documented(OPERATIONS, "kubectl delete -k"),
        NO_KINDS,
        is_seen("", "kubectl get namespace hoop-system --ignore-not-found"),
    ),
    "Helm, for some namespaces and then for all": (
        Documented("docs/helm.md", "kubectl create namespace shop"),
        Documented("docs/helm.md", "kubectl create namespace billing"),
        Documented(
            "docs/helm.md",
            "helm install hoop-operator deploy/chart --namespace hoop-system --create-namespace --set 'watch",
        ),
        "kubectl -n shop get role hoop-operator",
        "kubectl -n billing get role hoop-operator",
        is_seen("", "kubectl get clusterrole hoop-system:hoop-operator --ignore-not-found"),
        f"kubectl wait --for=condition=Established --timeout=120s crd {KINDS}",
        SOME_OBJECTS,
        Documented(OPERATIONS, "helm uninstall"),
        Documented("deploy/chart/README.md", "helm install"),
        "kubectl get clusterrole hoop-system:hoop-operator",
        "kubectl -n default get hrp/some hres/some",
    ),
    "Helm, where an administrator has made the kinds, and then kubectl and Helm": (
        Documented("docs/index.md", "kubectl apply --server-side -f"),
        "kubectl create namespace shop",
        Documented("docs/helm.md", "helm install hoop-operator deploy/chart --namespace shop"),
        "kubectl -n shop get deployment hoop-operator",
        Documented("docs/index.md", "kubectl apply --server-side -k"),
        Documented(
            "docs/helm.md", "helm install hoop-operator deploy/chart --namespace hoop-system --take-ownership"
        ),
        is_seen("hoop-operator", "helm list --namespace hoop-system --deployed --short"),
    ),
}
EVERYTHING = """
for namespace in hoop-system shop; do helm uninstall hoop-operator --namespace $namespace --ignore-not-found; done
kubectl delete -k deploy/manifests --ignore-not-found
kubectl delete namespace shop billing --ignore-not-found
"""


class Terminal:
    """A shell in the checkout, with kubectl and Helm for a cluster of its own."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.programs = directory
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(stack.kubeconfig),
            "PATH": f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def take(self, major: int) -> None:
        """Have this major version of Helm under the name that the pages call it by."""
        program = self.programs / "helm"
        program.unlink(missing_ok=True)
        program.symlink_to(helm(major))

    def type(self, *commands: str) -> str:
        """What commands print, one after the other; each has to succeed."""
        done = self.try_to(*commands)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_to(self, *commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands, one after the other until one fails."""
        return subprocess.run(  # noqa: S603 -- our own documentation
            ["/bin/sh", "-euxc", "\n".join(commands)],
            stdin=subprocess.DEVNULL,
            cwd=CHECKOUT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def cluster_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A control plane without our kinds."""
    stack = Stack(tmp_path_factory.mktemp("installation"))
    try:
        stack.start_control_plane()
        yield stack
    finally:
        stack.destroy()


@pytest.fixture
def terminal(cluster_of_its_own: Stack, tmp_path: Path) -> Iterator[Terminal]:
    """A shell; what was installed by it is taken away again."""
    terminal = Terminal(cluster_of_its_own, tmp_path)
    terminal.take(4)
    yield terminal
    terminal.type(EVERYTHING)


@pytest.mark.parametrize("steps", JOURNEYS.values(), ids=JOURNEYS)
def test_what_one_types_to_install_upgrade_and_uninstall_does_what_the_pages_say(
    terminal: Terminal, steps: tuple[Documented | str, ...]
) -> None:
    terminal.type(*map(command_of, steps))


def test_every_command_that_is_said_to_be_run_here_is() -> None:
    run = {command_of(step) for steps in JOURNEYS.values() for step in steps}
    assert {command for commands in documented().values() for command in commands} - run == set()


def newer_chart(directory: Path) -> Path:
    """The chart of a later version: with another value, and a field of HoopRolePlans that there is not yet."""
    chart = directory / "newer"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "99.0.0", "appVersion": "99.0.0"}))
    with (chart / "values.yaml").open("a") as values:
        values.write("\ncolour: grey\n")
    schema = json.loads((chart / "values.schema.json").read_text())
    schema["properties"]["colour"] = {"type": "string"}
    schema["required"].append("colour")
    (chart / "values.schema.json").write_text(json.dumps(schema))
    path = chart / "files/crds/hooproleplans.yaml"
    kind = yaml.safe_load(path.read_text())
    (version,) = kind["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["colour"] = {"type": "string"}
    path.write_text(yaml.safe_dump(kind))
    return chart


@pytest.mark.parametrize("major", [3, 4])
async def test_an_upgrade_brings_the_kinds_up_to_date_and_a_rollback_takes_them_back(
    terminal: Terminal, major: int, tmp_path: Path
) -> None:
    terminal.take(major)
    upgrade = command_of(Documented(OPERATIONS, "helm upgrade")).replace(
        "deploy/chart", str(newer_chart(tmp_path))
    )
    rollback = command_of(Documented(OPERATIONS, "helm rollback"))

    def get(what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(terminal.type(f"kubectl get {what} -o json"))
        return found

    paint = """kubectl patch hrp some --type=merge -p '{"spec": {"colour": "blue"}}'"""

    async def until_field(*, is_known: bool) -> None:
        """Wait until the API server has taken notice of the changed kind; nothing is written by that."""

        async def noticed() -> bool:
            told = json.loads(terminal.type(f"{paint} --dry-run=server -o json"))
            return ("colour" in told["spec"]) is is_known

        await eventually(noticed, what="the changed kind is served")

    terminal.type(
        "helm install hoop-operator deploy/chart --namespace hoop-system --create-namespace --set replicaCount=1",
        f"kubectl wait --for=condition=Established crd {KINDS}",
        SOME_OBJECTS,
    )
    before = get("crd hooproleplans.hoop.dev")["spec"]
    refused = terminal.try_to(upgrade.replace("--reset-then-reuse-values", "--reuse-values"))
    assert refused.returncode != 0
    assert "colour" in refused.stderr
    assert get("crd hooproleplans.hoop.dev")["spec"] == before

    terminal.type(upgrade)
    deployment = get("-n hoop-system deployment hoop-operator")["spec"]
    assert deployment["replicas"] == 1
    assert deployment["template"]["spec"]["containers"][0]["image"].endswith(":99.0.0")
    await until_field(is_known=True)
    terminal.type(paint)
    assert get("hrp some")["spec"]["colour"] == "blue"

    terminal.type(rollback)
    assert get("crd hooproleplans.hoop.dev")["spec"] == before
    deployment = get("-n hoop-system deployment hoop-operator")["spec"]
    assert not deployment["template"]["spec"]["containers"][0]["image"].endswith(":99.0.0")

    await until_field(is_known=False)
    terminal.type("kubectl label hrp some written=again")

    terminal.type(upgrade)
    await until_field(is_known=True)
    assert "colour" not in get("hrp some")["spec"]

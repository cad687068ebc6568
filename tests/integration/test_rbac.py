"""What the shipped roles allow, asked of the API server itself."""

import json
import time

import pytest

from local import cluster
from local.errors import StackError
from local.stack import Stack

pytestmark = pytest.mark.version_independent

OPERATOR = "system:serviceaccount:hoop-system:hoop-operator"


def may(stack: Stack, who: tuple[str, ...], verb: str, resource: str, namespace: str) -> bool:
    try:
        answer = cluster.kubectl(
            stack.kubeconfig, "auth", "can-i", verb, resource, f"--namespace={namespace}", *who
        )
    except StackError:  # kubectl exits with 1 for a "no"
        return False
    return answer.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("watch", "hoopresources.hoop.dev"),
        ("patch", "hooproleplans.hoop.dev/status"),
        ("create", "secrets"),
        ("get", "namespaces"),
        ("create", "events.events.k8s.io"),
    ],
)
def test_the_operator_may_do_its_work(stack: Stack, namespace: str, verb: str, resource: str) -> None:
    assert may(stack, (f"--as={OPERATOR}",), verb, resource, namespace)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "hooproleplans.hoop.dev"),
        ("delete", "hoopresources.hoop.dev"),
        ("update", "hooproleplans.hoop.dev"),
        ("approve", "hooproleplans.hoop.dev"),
        ("deletecollection", "secrets"),
        ("create", "configmaps"),
        ("create", "events"),
        ("patch", "events.events.k8s.io"),
        ("list", "namespaces"),
        ("list", "customresourcedefinitions.apiextensions.k8s.io"),
        ("create", "serviceaccounts/token"),
        ("impersonate", "users"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("create", "pods"),
        ("get", "leases.coordination.k8s.io"),
    ],
)
def test_the_operator_may_do_nothing_else(stack: Stack, namespace: str, verb: str, resource: str) -> None:
    assert not may(stack, (f"--as={OPERATOR}",), verb, resource, namespace)


@pytest.mark.parametrize(
    ("verb", "lease", "allowed"),
    [
        ("create", "", True),
        ("get", "/hoop-operator", True),
        ("patch", "/hoop-operator", True),
        ("get", "/another", False),
        ("patch", "/another", False),
        ("list", "", False),
        ("update", "/hoop-operator", False),
        ("delete", "/hoop-operator", False),
    ],
)
def test_the_operator_may_be_elected_by_its_own_lease(
    stack: Stack, verb: str, lease: str, allowed: bool
) -> None:
    who = (f"--as={OPERATOR}",)
    assert may(stack, who, verb, f"leases.coordination.k8s.io{lease}", "hoop-system") is allowed


AGGREGATED = {
    "view": [("get", "hooproleplans")],
    "edit": [("create", "hooproleplans")],
    "admin": [("create", "hooproleplans"), ("create", "hoopresources")],
}
"""What of ours is to be in each of Kubernetes' roles for people: one thing of each of our roles."""


@pytest.fixture
def people(stack: Stack, namespace: str, role: str) -> str:
    """Bind a user named after one of Kubernetes' roles for people; wait until our rules are in that role."""
    cluster.kubectl(
        stack.kubeconfig,
        f"--namespace={namespace}",
        "create",
        "rolebinding",
        role,
        f"--clusterrole={role}",
        f"--user={role}",
    )
    deadline = time.monotonic() + 60
    for verb, resource in AGGREGATED[role]:
        while not may(stack, (f"--as={role}",), verb, f"{resource}.hoop.dev", namespace):
            assert time.monotonic() < deadline
    return namespace


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "get", "hooproleplans", True),
        ("view", "create", "hooproleplans", False),
        ("view", "get", "hoopresources", False),
        ("edit", "get", "hooproleplans", True),
        ("edit", "create", "hooproleplans", True),
        ("edit", "approve", "hooproleplans", False),
        ("edit", "get", "hoopresources", False),
        ("edit", "create", "hoopresources", False),
        ("admin", "create", "hooproleplans", True),
        ("admin", "get", "hoopresources", True),
        ("admin", "create", "hoopresources", True),
        ("admin", "approve", "hooproleplans", False),
    ],
)
def test_people_get_plans_by_view_and_edit_but_resources_by_admin_alone(
    stack: Stack, people: str, role: str, verb: str, resource: str, allowed: bool
) -> None:
    assert may(stack, (f"--as={role}",), verb, f"{resource}.hoop.dev", people) is allowed


def test_an_owned_secret_goes_with_its_owner_and_a_namespace_ends(stack: Stack, namespace: str) -> None:
    def kubectl(*arguments: str, manifest: str | None = None) -> str:
        return cluster.kubectl(stack.kubeconfig, f"--namespace={namespace}", *arguments, manifest=manifest)

    kubectl("create", "configmap", "owner")
    uid = json.loads(kubectl("get", "configmap", "owner", "--output=json"))["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": True}
    owned = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "owned", "ownerReferences": [owner]},
    }
    kubectl("create", "--filename=-", manifest=json.dumps(owned))
    kubectl("delete", "configmap", "owner")
    kubectl("wait", "--for=delete", "secret/owned", "--timeout=120s")
    cluster.kubectl(stack.kubeconfig, "create", "namespace", f"{namespace}-2")
    cluster.kubectl(stack.kubeconfig, "delete", "namespace", f"{namespace}-2", "--wait", "--timeout=120s")

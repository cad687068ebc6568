"""Who may approve, as the admission policy has the API server decide; no operator runs here."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

import pytest

from integration.rights import until_in_force
from local import cluster
from local.errors import StackError
from local.stack import Stack

pytestmark = pytest.mark.version_independent

OPERATOR = "system:serviceaccount:hoop-system:hoop-operator"
APPROVE, ADOPT = "hoop.dev/approve", "hoop.dev/adopt"
SPEC = {
    "resourceRef": {"name": "pg"},
    "type": "managed",
    "role": "ro",
    "scopes": ["shop"],
    "privileges": ["SELECT"],
}
MANUAL = {**SPEC, "approval": "Manual"}
EDITOR, APPROVER = "editor", "approver"

both = pytest.mark.parametrize("user", [EDITOR, APPROVER])


class People:
    """Users who may edit plans in a namespace, one of whom may approve there, too."""

    def __init__(self, stack: Stack, namespace: str) -> None:
        self._config = stack.kubeconfig
        self.namespace = namespace

    def kubectl(self, user: str | None, *arguments: str, manifest: Mapping[str, Any] | None = None) -> str:
        """Run kubectl as a user, or as cluster administrator for None."""
        impersonation = [f"--as={user}"] if user else []
        return cluster.kubectl(
            self._config,
            f"--namespace={self.namespace}",
            *arguments,
            *impersonation,
            manifest=None if manifest is None else json.dumps(manifest),
        )

    def bind(self, user: str, role: str) -> None:
        name = f"{user}-{role}"
        self.kubectl(None, "create", "rolebinding", name, f"--clusterrole={role}", f"--user={user}")

    def make(self, spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Have a plan there, as the administrator made it; return it as stored, to be replaced whatever its version."""
        made = self.create(None, plan(spec, annotations))
        del made["metadata"]["resourceVersion"]
        return made

    def create(self, user: str | None, body: Mapping[str, Any]) -> dict[str, Any]:
        created: dict[str, Any] = json.loads(
            self.kubectl(user, "create", "-f", "-", "-o", "json", manifest=body)
        )
        return created

    def may_approve(self, user: str, name: str) -> bool:
        """Whether a plan takes an annotation from a user."""
        try:
            self.kubectl(user, "annotate", "hrp", name, f"{APPROVE}=probed", "--dry-run=server")
        except StackError:
            return False
        return True

    def may_adopt(self, user: str, name: str, predecessor: str) -> bool:
        """Whether a plan takes the annotation that it is another one's heir from a user."""
        arguments = ("annotate", "hrp", name, "--overwrite", f"{ADOPT}={predecessor}", "--dry-run=server")
        try:
            self.kubectl(user, *arguments)
        except StackError:
            return False
        return True

    def patch(self, user: str, name: str, patch: Mapping[str, Any], *more: str) -> None:
        self.kubectl(user, "patch", "hrp", name, "--type=merge", "-p", json.dumps(patch), *more)


def plan(spec: Mapping[str, Any], annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": f"ro-{secrets.token_hex(4)}", "annotations": annotations or {}},
        "spec": spec,
    }


def refused(part: str) -> Any:
    """A refusal that names what was not allowed and what to ask for."""
    return pytest.raises(StackError, match=rf"(?s)Forbidden.*{part} .*ClusterRole hoop-approve")


def is_refused(part: str, people: People, user: str, *arguments: str, **manifest: Any) -> None:
    """See that the editor may not do something, and that the approver may."""
    if user == APPROVER:
        people.kubectl(user, *arguments, **manifest)
        return
    with refused(part):
        people.kubectl(user, *arguments, **manifest)


@pytest.fixture
def people(stack: Stack, namespace: str) -> People:
    """People with their rights, once these and the policy are in force."""
    people = People(stack, namespace)
    people.bind(EDITOR, "edit")
    people.bind(APPROVER, "edit")
    people.bind(APPROVER, "hoop-approve")
    probe = people.make(SPEC)["metadata"]["name"]
    until_in_force(lambda: people.may_approve(APPROVER, probe) and not people.may_approve(EDITOR, probe))
    return people


@both
@pytest.mark.parametrize("annotation", [APPROVE, ADOPT])
def test_to_add_or_change_an_annotation_that_approves_takes_the_verb(
    people: People, user: str, annotation: str
) -> None:
    wanted = {annotation: "new"}
    generated = plan(SPEC, wanted)
    generated["metadata"]["generateName"] = f"{generated['metadata'].pop('name')}-"
    for body in (plan(SPEC, wanted), generated):
        is_refused(annotation, people, user, "create", "-f", "-", manifest=body)
    is_refused(annotation, people, user, "apply", "--server-side", "-f", "-", manifest=plan(SPEC, wanted))
    for before in ({}, {annotation: "old"}, {APPROVE: "old", ADOPT: "old"}):
        name = people.make(SPEC, before)["metadata"]["name"]
        is_refused(annotation, people, user, "annotate", "hrp", name, "--overwrite", f"{annotation}=new")
        body = people.make(SPEC, before)
        body["metadata"]["annotations"] = {**before, **wanted}
        is_refused(annotation, people, user, "replace", "-f", "-", manifest=body)
        applied = plan(SPEC, wanted)
        applied["metadata"]["name"] = people.make(SPEC, before)["metadata"]["name"]
        arguments = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        is_refused(annotation, people, user, *arguments, manifest=applied)


@both
@pytest.mark.parametrize("approval", ["Automatic", None])
def test_to_change_approval_from_manual_or_to_take_it_away_takes_the_verb(
    people: People, user: str, approval: str | None
) -> None:
    name = people.make(MANUAL)["metadata"]["name"]
    patch = json.dumps({"spec": {"approval": approval}})
    is_refused("spec.approval", people, user, "patch", "hrp", name, "--type=merge", "-p", patch)
    body = people.make(MANUAL)
    body["spec"] = {**SPEC, "approval": approval} if approval else SPEC
    is_refused("spec.approval", people, user, "replace", "-f", "-", manifest=body)
    if approval is None:
        # Who applied the field takes it away by not applying it any more.
        body = plan(MANUAL)
        people.kubectl(user, "apply", "--server-side", "-f", "-", manifest=body)
        body["spec"] = SPEC
        is_refused("spec.approval", people, user, "apply", "--server-side", "-f", "-", manifest=body)


@both
def test_to_name_another_secret_while_adopt_is_there_takes_the_verb(people: People, user: str) -> None:
    for before in (SPEC, {**SPEC, "secretName": "own"}):
        name = people.make(before, {ADOPT: "true"})["metadata"]["name"]
        patch = json.dumps({"spec": {"secretName": "others"}})
        is_refused("spec.secretName", people, user, "patch", "hrp", name, "--type=merge", "-p", patch)
        free = people.make(before, {ADOPT: "true"})["metadata"]["name"]
        people.kubectl(user, "annotate", "hrp", free, f"{ADOPT}-")
        people.patch(user, free, {"spec": {"secretName": "others"}})


def test_all_else_is_free(people: People) -> None:
    name = people.make(MANUAL, {APPROVE: "old", ADOPT: "true"})["metadata"]["name"]
    people.patch(EDITOR, name, {"spec": {"privileges": ["INSERT"]}, "metadata": {"labels": {"team": "a"}}})
    people.patch(EDITOR, name, {"metadata": {"annotations": {"hoop.dev/rotate-at": "now"}}})
    people.kubectl(EDITOR, "annotate", "hrp", name, f"{APPROVE}-", f"{ADOPT}-")
    for spec in (SPEC, MANUAL, {**SPEC, "approval": "Automatic"}):
        created = people.create(EDITOR, plan(spec, {"team": "a"}))
        generated = plan(spec)
        generated["metadata"] = {"generateName": "ro-"}
        people.create(EDITOR, generated)
        people.patch(EDITOR, created["metadata"]["name"], {"spec": {"approval": "Manual"}})
        people.kubectl(EDITOR, "delete", "hrp", created["metadata"]["name"])


def test_to_take_over_a_plan_of_another_namespace_takes_the_verb_there_too(people: People) -> None:
    name = people.make(SPEC)["metadata"]["name"]
    elsewhere = f"{people.namespace}-elsewhere"
    for predecessor in (f"{elsewhere}/ro", "kube-system/ro"):
        with refused(ADOPT):
            people.kubectl(APPROVER, "annotate", "hrp", name, f"{ADOPT}={predecessor}")
    people.kubectl(APPROVER, "annotate", "hrp", name, f"{ADOPT}={people.namespace}/former")
    people.kubectl(None, "create", "namespace", elsewhere)
    try:
        people.kubectl(
            None,
            *("create", "rolebinding", "heir", "--clusterrole=hoop-approve", f"--user={APPROVER}"),
            f"--namespace={elsewhere}",
        )
        until_in_force(lambda: people.may_adopt(APPROVER, name, f"{elsewhere}/ro"))
    finally:
        people.kubectl(None, "delete", "namespace", elsewhere, "--wait=false")


def test_the_operators_own_patches_pass(people: People) -> None:
    name = people.make(MANUAL, {APPROVE: "old", ADOPT: "true"})["metadata"]["name"]
    people.patch(OPERATOR, name, {"metadata": {"finalizers": ["hoop.dev/operator"]}})
    people.patch(OPERATOR, name, {"metadata": {"finalizers": None}})
    with refused(APPROVE):
        people.kubectl(OPERATOR, "annotate", "hrp", name, "--overwrite", f"{APPROVE}=new")


def test_the_right_may_be_given_for_one_plan_alone(people: People) -> None:
    mine, other = (people.make(MANUAL)["metadata"]["name"] for _ in range(2))
    people.bind("owner", "edit")
    people.kubectl(
        None, "create", "role", "one", "--verb=approve", "--resource=hooproleplans", f"--resource-name={mine}"
    )
    people.kubectl(None, "create", "rolebinding", "one", "--role=one", "--user=owner")
    until_in_force(lambda: people.may_approve("owner", mine))
    with refused(APPROVE):
        people.kubectl("owner", "annotate", "hrp", other, f"{APPROVE}=new")

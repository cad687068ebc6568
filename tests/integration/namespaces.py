"""The namespaces that tests work in, and the operator's rights there.

By default the operator has its ClusterRole, and every test a namespace that nobody had before. With RBAC=namespaced it
has what the chart gives it for `watchNamespaces`, a Role in each of its namespaces. An operator that outlives a test
has to be told of them all when it starts; so tests that meet one share some namespaces, one after the other.
"""

import json
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress

import pytest
import yaml

from generated import render
from local import cluster
from local.errors import StackError
from local.stack import Stack

NAMESPACED = os.environ.get("RBAC") == "namespaced"
CLUSTER_WIDE = pytest.mark.skipif(
    NAMESPACED,
    reason="it makes a namespace in which the operator has no Role, or deletes one, and its Role with it",
)
SHARED = 6
TAKEN_AWAY = ("secrets", "configmaps", "events.events.k8s.io", "serviceaccounts", "roles", "rolebindings")
NOT_OURS = "app.kubernetes.io/name!=hoop-operator"
SOMEWHERE = "the-namespace"


def rbac(*values: str) -> str:
    """What the chart makes of RBAC for the operator's account, with some of its values."""
    settings = ("serviceAccount.create=false", "serviceAccount.name=hoop-operator", *values)
    return render(*(f"--set={value}" for value in settings), "--show-only=templates/rbac.yaml")


def rbac_of_lease(agent_id: str) -> str:
    """What the chart makes for the election among the operators of an agent id, and no more."""
    documents = yaml.safe_load_all(rbac(f"agentId={agent_id}", f"fullnameOverride=agent-{agent_id}"))
    return yaml.safe_dump_all(
        body for body in documents if body and body["metadata"]["name"].endswith("-lease")
    )


class Namespaces:
    """The namespaces of a test run."""

    def __init__(self, stack: Stack) -> None:
        self.taken: list[str] = []
        """Those of the test that is running."""
        self._stack = stack
        self._shared: deque[str] = deque()
        self._role = ""
        if NAMESPACED:
            # The rights in the whole cluster come from nothing else.
            self._kubectl("delete", "clusterrolebinding", "hoop-system:hoop-operator", "--ignore-not-found")
            self._role = rbac(f"watchNamespaces={{{SOMEWHERE}}}")
            self._shared.extend(self._make() for _ in range(SHARED))
        self._all_shared = frozenset(self._shared)
        self.of_the_run = settings_for(self._shared)
        """Settings of an operator that serves more than one test."""

    @property
    def of_the_test(self) -> Mapping[str, str]:
        """Settings of an operator that serves the test that is running."""
        return settings_for(self.taken)

    def take(self, *, shared: bool) -> str:
        """A namespace with nothing in it, which operators of the run serve if it is shared."""
        name = self._shared.popleft() if NAMESPACED and shared else self._make()
        self.taken.append(name)
        return name

    def give_back(self, name: str) -> None:
        """Have a namespace emptied or deleted."""
        self.taken.remove(name)
        if name in self._all_shared:
            self._empty(name)
            self._shared.append(name)
        else:
            self._kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    def let_go(self, name: str) -> None:
        """Take the finalizers off that an operator which is no more would have taken: the namespace would never end."""
        inside = f"--namespace={name}"
        for plural in ("hooproleplans", "hoopresources"):
            if left := self._kubectl(inside, "get", plural, "--output=name").split():
                self._take_finalizers_off(inside, left)

    def _make(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._kubectl("create", "namespace", name)
        if NAMESPACED:
            self._kubectl("apply", "--filename=-", manifest=self._role.replace(SOMEWHERE, name))
        return name

    def _empty(self, name: str) -> None:
        """Take away all but the operator's Role. What nobody lets go any more is let go here."""
        inside = f"--namespace={name}"
        self._kubectl(inside, "delete", "hooproleplans", "--all", "--wait=false")
        self._until_gone(inside, "hooproleplans")
        self._kubectl(inside, "delete", "hoopresources", "--all", "--wait=false")
        self._until_gone(inside, "hoopresources")
        self._kubectl(inside, "delete", ",".join(TAKEN_AWAY), f"--selector={NOT_OURS}", "--wait=false")
        labels = json.loads(self._kubectl("get", "namespace", name, "--output=json"))["metadata"]["labels"]
        if added := [label for label in labels if label != "kubernetes.io/metadata.name"]:
            self._kubectl("label", "namespace", name, *(f"{label}-" for label in added))

    def _until_gone(self, inside: str, plural: str) -> None:
        begun = time.monotonic()
        while left := self._kubectl(inside, "get", plural, "--output=name").split():
            waited = time.monotonic() - begun
            assert waited < 60, f"{left} of a test that is over are still there"
            if waited > 10:
                self._take_finalizers_off(inside, left)

    def _take_finalizers_off(self, inside: str, objects: Iterable[str]) -> None:
        patch = ("--type=merge", '--patch={"metadata":{"finalizers":null}}')
        with suppress(StackError):  # an operator may have let one go since
            self._kubectl(inside, "patch", *objects, *patch)

    def _kubectl(self, *arguments: str, manifest: str | None = None) -> str:
        return cluster.kubectl(self._stack.kubeconfig, *arguments, manifest=manifest)


def settings_for(names: Iterable[str]) -> dict[str, str]:
    """What an operator has to be told to serve some namespaces with its Roles there; nothing where it serves all."""
    return {"HOOP_WATCH_NAMESPACES": json.dumps([*names])} if NAMESPACED else {}

"""The two kinds as they came from the API server, with what the operator needs to know of them at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hoop_operator.cluster.secrets import Owner
from hoop_operator.crd import DeletionPolicy, EnvFrom, HoopResourceSpec, HoopRolePlanSpec
from hoop_operator.credentials.env import references_in
from hoop_operator.credentials.references import Reference
from hoop_operator.errors import PlanReason
from hoop_operator.naming import (
    ADOPT,
    APPROVE,
    RECONCILE_AT,
    ROTATE_AT,
    connection_secret_name,
    default_secret_name,
)

FINALIZER = "hoop.dev/operator"

ABANDON = "hoop.dev/abandon"


class Key(NamedTuple):
    """Where an object of one kind is to be found."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Reading(NamedTuple):
    """A Secret or ConfigMap that a resource depends on."""

    kind: Literal["Secret", "ConfigMap"]
    namespace: str
    name: str


class Fingerprint(NamedTuple):
    """What of an object asks for a run when it changes; our own writes leave it as it is."""

    uid: str
    generation: int
    deleting: bool
    annotations: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class KubernetesObject:
    """What both kinds have in common."""

    body: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> Key:
        """Namespace and name."""
        metadata = self.body["metadata"]
        return Key(metadata["namespace"], metadata["name"])

    @property
    def uid(self) -> str:
        """The object's own identity, never used again."""
        return str(self.body["metadata"]["uid"])

    @property
    def generation(self) -> int:
        """Counts the changes of the spec."""
        return int(self.body["metadata"]["generation"])

    @property
    def resource_version(self) -> int:
        """Grows with every change of the object (KEP-5504)."""
        return int(self.body["metadata"]["resourceVersion"])

    @property
    def annotations(self) -> Mapping[str, str]:
        """The object's annotations."""
        return self.body["metadata"].get("annotations") or {}

    @property
    def deleting(self) -> bool:
        """Whether somebody asked for its deletion."""
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def has_finalizer(self) -> bool:
        """Whether it cannot go before we let it."""
        return FINALIZER in (self.body["metadata"].get("finalizers") or ())

    @property
    def orphans_dependents(self) -> bool:
        """Whether its deletion is to leave behind what it owns (`kubectl delete --cascade=orphan`)."""
        return "orphan" in (self.body["metadata"].get("finalizers") or ())

    @property
    def status(self) -> Mapping[str, Any]:
        """The status as it was last written."""
        return self.body.get("status") or {}

    @property
    def fingerprint(self) -> Fingerprint:
        """What of it asks for a run when it changes."""
        watched = (RECONCILE_AT, ROTATE_AT, ABANDON, ADOPT, APPROVE)
        return Fingerprint(
            self.uid, self.generation, self.deleting, tuple(self.annotations.get(name) for name in watched)
        )

    def condition(self, name: str) -> Mapping[str, Any]:
        """A condition of the status; empty where there is none."""
        for condition in self.status.get("conditions") or ():
            if condition["type"] == name:
                found: Mapping[str, Any] = condition
                return found
        return {}


@dataclass(frozen=True, slots=True)
class Resource(KubernetesObject):
    """A HoopResource."""

    spec: HoopResourceSpec

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "Resource":
        """Read the object.

        Raises
        ------
        pydantic.ValidationError
            The spec does not follow its schema.
        """
        return cls(_lean(body), HoopResourceSpec.model_validate(body["spec"]))

    @property
    def api_name(self) -> str:
        """The name that role names derive from."""
        return self.spec.resource_name or self.key.name

    @property
    def is_postgres(self) -> bool:
        """Whether plans can be run on it."""
        return self.spec.type == "database" and self.spec.subtype == "postgres"

    @property
    def sources(self) -> tuple[Reading | None, ...]:
        """What each entry of `spec.envVarsFrom` names; None for one that names nothing."""
        return self.named(self.spec.env_vars_from)

    def named(self, entries: Sequence[EnvFrom]) -> tuple[Reading | None, ...]:
        """What entries of its spec name; None for one that names nothing."""
        namespace = self.key.namespace
        return tuple(
            Reading("Secret", namespace, entry.secret_ref.name)
            if entry.secret_ref is not None
            else Reading("ConfigMap", namespace, entry.config_map_ref.name)
            if entry.config_map_ref is not None
            else None
            for entry in entries
        )

    @property
    def readings(self) -> frozenset[Reading]:
        """The Secrets and ConfigMaps that it reads, or writes for one of its roles."""
        written = {
            Reading("Secret", self.key.namespace, connection_secret_name(self.key.name, role.name))
            for role in self.spec.roles
        }
        named = [reading for role in self.spec.roles for reading in self.named(role.secret_from)]
        return frozenset({*written, *filter(None, self.sources), *filter(None, named)})

    @property
    def references(self) -> frozenset[Reference]:
        """What it refers to outside of the cluster, for itself and for its roles."""
        maps = (self.spec.env_vars, *(role.secret for role in self.spec.roles))
        return frozenset(reference for each in maps for reference in references_in(each).values())

    @property
    def owner(self) -> Owner:
        """The resource as the controller of Secrets."""
        return Owner("HoopResource", self.key.name, self.uid)


@dataclass(frozen=True, slots=True)
class Plan(KubernetesObject):
    """A HoopRolePlan."""

    spec: HoopRolePlanSpec

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "Plan":
        """Read the object.

        Raises
        ------
        pydantic.ValidationError
            The spec does not follow its schema.
        """
        return cls(_lean(body), HoopRolePlanSpec.model_validate(body["spec"]))

    @property
    def resource_key(self) -> Key:
        """The HoopResource it refers to."""
        reference = self.spec.resource_ref
        return Key(reference.namespace or self.key.namespace, reference.name)

    @property
    def secret_name(self) -> str:
        """Where its credentials go."""
        return self.spec.secret_name or default_secret_name(self.key.name)

    @property
    def owner(self) -> Owner:
        """The plan as the controller of its Secret."""
        return Owner("HoopRolePlan", self.key.name, self.uid)

    def known_oid(self, system_identifier: str | None) -> int | None:
        """The OID of the plan's role, if that was last seen on this very server."""
        status = self.status
        same = system_identifier and system_identifier == status.get("systemIdentifier")
        return status.get("roleOid") if same else None

    @property
    def leaves_role(self) -> bool:
        """Whether its deletion is not to touch the server."""
        return self.annotations.get(ABANDON) == "true" or self.spec.deletion_policy is DeletionPolicy.RETAIN

    @property
    def was_refused(self) -> bool:
        """Whether it never was allowed to refer to its resource; a finalizer on it is not ours then."""
        refused = self.condition("Ready").get("reason") == PlanReason.REFERENCE_NOT_ALLOWED
        return refused and "role" not in self.status

    @property
    def waits_for_approval(self) -> bool:
        """Whether its status says that its statements wait for somebody to approve them."""
        return self.condition("PendingApproval").get("status") == "True"

    @property
    def is_new_input(self) -> bool:
        """Whether its spec or an annotation that asks for a run differs from what the last run answered."""
        status = self.status
        return (
            status.get("observedGeneration") != self.generation
            or self._is_new(RECONCILE_AT, "observedReconcileAt")
            or self._is_new(ROTATE_AT, "observedRotateAt")
            or self._is_new(APPROVE, "observedApprove")
        )

    def _is_new(self, annotation: str, observed: str) -> bool:
        """Whether an annotation has a value that no run has acted on; to take one away asks for nothing."""
        value = self.annotations.get(annotation)
        return bool(value) and value != self.status.get(observed)


def _lean(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object without the API server's own bookkeeping, which takes more memory than all the rest."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}

"""Where objects live on the API server. No path is built elsewhere, so no name reaches beyond its object."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hoop_operator.crd.common import GROUP, VERSION
from hoop_operator.crd.resource import HOOP_RESOURCE
from hoop_operator.crd.roleplan import HOOP_ROLE_PLAN
from hoop_operator.errors import ObjectRejected

_CORE = "/api/v1"
_HOOP = f"/apis/{GROUP}/{VERSION}"
_PLURALS = {resource.kind: resource.plural for resource in (HOOP_RESOURCE, HOOP_ROLE_PLAN)}


def secrets(namespace: str | None = None) -> str:
    """Return the path of all Secrets of a namespace, or of the cluster when there is none."""
    return _collection(_CORE, "secrets", namespace)


def secret(namespace: str, name: str) -> str:
    """Return the path of a Secret."""
    return _member(secrets(namespace), name)


def config_maps(namespace: str | None = None) -> str:
    """Return the path of all ConfigMaps of a namespace, or of the cluster when there is none."""
    return _collection(_CORE, "configmaps", namespace)


def config_map(namespace: str, name: str) -> str:
    """Return the path of a ConfigMap."""
    return _member(config_maps(namespace), name)


def namespace(name: str) -> str:
    """Return the path of a Namespace."""
    return _member(f"{_CORE}/namespaces", name)


def events(namespace: str) -> str:
    """Return the path of a namespace's events."""
    return _collection("/apis/events.k8s.io/v1", "events", namespace)


def leases(namespace: str) -> str:
    """Return the path of a namespace's Leases."""
    return _collection("/apis/coordination.k8s.io/v1", "leases", namespace)


def lease(namespace: str, name: str) -> str:
    """Return the path of a Lease."""
    return _member(leases(namespace), name)


def hoop_resources(namespace: str | None = None) -> str:
    """Return the path of all HoopResources of a namespace, or of the cluster when there is none."""
    return _collection(_HOOP, HOOP_RESOURCE.plural, namespace)


def hoop_resource(namespace: str, name: str) -> str:
    """Return the path of a HoopResource."""
    return _member(hoop_resources(namespace), name)


def hoop_role_plans(namespace: str | None = None) -> str:
    """Return the path of all HoopRolePlans of a namespace, or of the cluster when there is none."""
    return _collection(_HOOP, HOOP_ROLE_PLAN.plural, namespace)


def hoop_role_plan(namespace: str, name: str) -> str:
    """Return the path of a HoopRolePlan."""
    return _member(hoop_role_plans(namespace), name)


def custom_object(body: Mapping[str, Any]) -> str:
    """Return the path of a HoopResource or HoopRolePlan as it came from the API server."""
    metadata = body["metadata"]
    return _member(_collection(_HOOP, _PLURALS[body["kind"]], metadata["namespace"]), metadata["name"])


def status(path: str) -> str:
    """Return the path of an object's status subresource."""
    return f"{path}/status"


def _collection(api: str, plural: str, namespace: str | None) -> str:
    if namespace is None:
        return f"{api}/{plural}"
    return f"{api}/namespaces/{_segment(namespace)}/{plural}"


def _member(collection: str, name: str) -> str:
    return f"{collection}/{_segment(name)}"


def _segment(name: str) -> str:
    # These mean another path, and an empty name the whole collection; the API server allows none of them.
    if name in {"", ".", ".."} or "/" in name or "%" in name:
        raise ObjectRejected(f"{name!r} is not a name that a Kubernetes object can have")
    return quote(name, safe="")

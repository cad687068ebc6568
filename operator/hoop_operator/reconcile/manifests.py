"""Kubernetes objects from YAML text, as people keep them in Git, before a cluster has them."""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError

from hoop_operator.cluster.secrets import config_map_data, secret_data
from hoop_operator.crd import API_VERSION, HOOP_RESOURCE, HOOP_ROLE_PLAN, KubernetesModel
from hoop_operator.crd.common import LOWER_CASE_LABEL
from hoop_operator.reconcile.objects import Key, Plan, Reading, Resource

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""A label that the API server puts on every namespace."""

CORE_KINDS = ("Secret", "ConfigMap", "Namespace")
CUSTOM_KINDS = (HOOP_RESOURCE.kind, HOOP_ROLE_PLAN.kind)

_LABEL = LOWER_CASE_LABEL.strip("^$")


class _Loader(yaml.CSafeLoader):
    """YAML as kubectl reads it: what looks like a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- so it is declared by the parent
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


def _base64(text: str) -> str:
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        raise ValueError("the value is not base64; encode it, or use stringData for plain text") from None
    return text


_Base64 = Annotated[str, AfterValidator(_base64)]


class _Metadata(KubernetesModel):
    name: Annotated[str, Field(max_length=253, pattern=rf"^{_LABEL}(\.{_LABEL})*$")]
    namespace: Annotated[str, Field(max_length=63, pattern=LOWER_CASE_LABEL)] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Object(KubernetesModel):
    metadata: _Metadata


class _Secret(_Object):
    data: dict[str, _Base64] | None = Field(default=None, repr=False)
    string_data: dict[str, str] | None = Field(default=None, repr=False)


class _ConfigMap(_Object):
    data: dict[str, str] | None = None
    binary_data: dict[str, _Base64] | None = None


class _Custom(_Object):
    spec: dict[str, Any]
    status: dict[str, Any] | None = None


_MODELS: Mapping[str, type[_Object]] = {
    "Secret": _Secret,
    "ConfigMap": _ConfigMap,
    "Namespace": _Object,
    **dict.fromkeys(CUSTOM_KINDS, _Custom),
}


@dataclass(slots=True)
class Manifests:
    """What some files hold, as far as plans depend on it."""

    resources: dict[Key, Resource] = field(default_factory=dict)
    plans: dict[Key, Plan] = field(default_factory=dict)
    contents: dict[Reading, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    """What Secrets and ConfigMaps hold, decoded."""
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """The labels of each namespace."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many objects of each other kind there were."""
    problems: list[str] = field(default_factory=list)
    """What cannot be read or follows no schema: file, object and field, and never a value."""


def read_manifests(texts: Mapping[str, str], namespace: str) -> Manifests:
    """Read the objects of some files.

    Parameters
    ----------
    texts
        The YAML of each file, one document or several, by the name that messages call it.
    namespace
        Where objects are that name none.
    """
    manifests = Manifests()
    origins: dict[tuple[str, Key], str] = {}
    for origin, text in texts.items():
        try:
            documents = [*yaml.load_all(text, Loader=_Loader)]
        except (yaml.YAMLError, ValueError) as error:
            # What the parser says itself may quote a value, a password for instance.
            mark = getattr(error, "problem_mark", None)
            place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            manifests.problems.append(f"{origin}: this is not YAML{place}")
            continue
        for document in documents:
            try:
                items = [*_flattened(document)]
            except RecursionError:
                manifests.problems.append(f"{origin}: a list holds itself, by an alias")
                continue
            for item in items:
                _read_object(item, origin, namespace, manifests, origins)
    return manifests


def _flattened(document: Any) -> Iterator[Any]:
    """The object that a document holds, or those of a list; none for an empty document."""
    if document is None:
        return
    items = document.get("items") if isinstance(document, dict) else None
    if isinstance(items, list) and str(document.get("kind")).endswith("List"):
        for item in items:
            yield from _flattened(item)
    else:
        yield document


def _read_object(
    body: Any, origin: str, namespace: str, manifests: Manifests, origins: dict[tuple[str, Key], str]
) -> None:
    kind = body.get("kind") if isinstance(body, dict) else None
    if not isinstance(kind, str) or not isinstance(body.get("apiVersion"), str):
        manifests.problems.append(
            f"{origin}: a document is no Kubernetes object: apiVersion or kind is missing"
        )
        return
    if kind in CUSTOM_KINDS:
        version = API_VERSION
    elif kind in CORE_KINDS and body["apiVersion"] == "v1":
        version = "v1"
    else:
        manifests.skipped[kind] += 1
        return
    metadata = body.get("metadata") if isinstance(body.get("metadata"), dict) else {}
    named = f"{metadata.get('namespace') or namespace}/{metadata.get('name')}"
    who = f"{origin}: {kind} {named if kind != 'Namespace' else metadata.get('name')}"
    if body["apiVersion"] != version:
        manifests.problems.append(f"{who}: apiVersion: must be {version}")
        return
    try:
        read = _MODELS[kind].model_validate(body)
    except ValidationError as error:
        manifests.problems += _problems(who, error)
        return
    key = Key("" if kind == "Namespace" else read.metadata.namespace or namespace, read.metadata.name)
    if (kind, key) in origins:
        manifests.problems.append(f"{who}: it is in {origins[kind, key]} already; remove one of the two")
        return
    origins[kind, key] = origin
    whole = {**body, "metadata": {**metadata, "namespace": key.namespace}}
    try:
        _keep(kind, key, whole, manifests)
    except ValidationError as error:
        manifests.problems += _problems(who, error, "spec.")


def _keep(kind: str, key: Key, body: Mapping[str, Any], manifests: Manifests) -> None:
    if kind == HOOP_RESOURCE.kind:
        manifests.resources[key] = Resource.parse(body)
    elif kind == HOOP_ROLE_PLAN.kind:
        plan = Plan.parse(body)
        if plan.deleting:
            manifests.skipped[f"{kind} that is being deleted"] += 1
        else:
            manifests.plans[key] = plan
    elif kind == "Secret":
        manifests.contents[Reading("Secret", *key)] = secret_data(body)
    elif kind == "ConfigMap":
        manifests.contents[Reading("ConfigMap", *key)] = config_map_data(body)
    else:
        manifests.namespaces[key.name] = {
            **(body["metadata"].get("labels") or {}),
            NAMESPACE_NAME_LABEL: key.name,
        }


def _problems(who: str, error: ValidationError, prefix: str = "") -> list[str]:
    return [
        f"{who}: {prefix}{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]

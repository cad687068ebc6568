"""Namespaces: their labels, and whether a label selector takes them."""

from collections.abc import Mapping
from typing import Any

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound


async def namespace_labels(api: KubernetesApi, name: str) -> dict[str, str] | None:
    """Return the labels of a namespace, None when there is none of that name."""
    try:
        body = await api.get(paths.namespace(name))
    except ObjectNotFound:
        return None
    return body["metadata"].get("labels") or {}


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector (`matchLabels`, `matchExpressions`) takes something with these labels.

    All parts must agree; an empty selector takes everything, `NotIn` also what has no such label.

    Source: Kubernetes API reference, `LabelSelector` and `LabelSelectorRequirement`.
    """
    exact = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        _agrees(expression, labels) for expression in expressions
    )


def _agrees(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key = expression["key"]
    values = expression.get("values") or []
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case operator:
            raise ValueError(f"{operator!r} is not an operator of label selectors")

"""Resources of a hoop gateway as objects of ours: what may be read by all in Git, and the Secrets apart from it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from hoop_operator.crd import API_VERSION, HOOP_RESOURCE, HoopResourceSpec
from hoop_operator.credentials.env import decode, references_in
from hoop_operator.naming import resource_object_name

IN_THE_OPEN = frozenset({"HOST", "PORT", "DB", "SSLMODE"})
"""Variables that are no secret; whatever else a resource has goes into its Secret."""


@dataclass(frozen=True, slots=True)
class FromGateway:
    """What became of a gateway's resources, as manifests. No value is quoted in what a person is told."""

    resources: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[dict[str, Any]] = field(default_factory=list, repr=False)
    left_out: list[str] = field(default_factory=list)
    """What could not be taken over, and why."""
    remarks: list[str] = field(default_factory=list)
    """What a person should know of what was."""


class _LeftOut(Exception):
    """A resource cannot be taken over."""


def from_gateway(answer: Any, namespace: str) -> FromGateway:
    """Turn a gateway's answer to `GET /api/resources` into HoopResources, each with a Secret of its credentials.

    The resources keep their names in the API, so that the names of roles which derive from them stay.

    Parameters
    ----------
    answer
        The JSON of the answer: an array, or a page with the array as `data`.
    namespace
        Where the objects are to be.

    Raises
    ------
    ValueError
        It is no such answer.
    """
    listed = answer.get("data") if isinstance(answer, Mapping) else answer
    if not isinstance(listed, list) or not all(
        isinstance(item, Mapping) and isinstance(item.get("name"), str) and item["name"] for item in listed
    ):
        raise ValueError(
            "it is not what a gateway answers to GET /api/resources: a JSON array of resources, each with its name"
        )
    found = FromGateway()
    for item in listed:
        try:
            _take_over(item, namespace, found)
        except _LeftOut as why:
            found.left_out.append(f"{item['name']}: left out, {why}")
    return found


def _take_over(item: Mapping[str, Any], namespace: str, found: FromGateway) -> None:
    name: str = item["name"]
    object_name = resource_object_name(name)
    secret_name = f"{object_name}-admin"
    in_the_open, confidential, references = _sorted_out(item.get("env_vars") or {})
    spec: dict[str, Any] = {"type": item.get("type"), "subtype": item.get("subtype") or item.get("type")}
    if name != object_name:
        spec["resourceName"] = name
    if in_the_open or references:
        spec["envVars"] = in_the_open | references
    if confidential:
        spec["envVarsFrom"] = [{"secretRef": {"name": secret_name}}]
    try:
        HoopResourceSpec.model_validate(spec)
    except ValidationError as error:
        fields = {".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)}
        raise _LeftOut(f"these fields are not ours: {', '.join(sorted(fields))}") from None
    found.resources.append(_object(API_VERSION, HOOP_RESOURCE.kind, object_name, namespace, spec=spec))
    if confidential:
        found.secrets.append(
            _object("v1", "Secret", secret_name, namespace, type="Opaque", data=confidential)
        )
    if item.get("agent_id"):
        found.remarks.append(
            f"{name}: its agent_id is left out; set spec.agentId only for an operator that has HOOP_AGENT_ID"
        )
    if references:
        found.remarks.append(
            f"{name}: {', '.join(sorted(references))} refer to AWS or to the environment; the operator's settings have "
            f"to allow that to namespace {namespace}"
        )


def _sorted_out(env_vars: Any) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """What `env_vars` hold in the open, in base64 what is confidential, and the references."""
    if not isinstance(env_vars, Mapping) or not all(isinstance(value, str) for value in env_vars.values()):
        raise _LeftOut("its env_vars are no map of texts")
    if not env_vars:
        raise _LeftOut("it has no env_vars")
    decoded = decode(env_vars, "env_vars")
    if decoded.problems:
        raise _LeftOut("; ".join(decoded.problems))
    in_the_open: dict[str, str] = {}
    confidential: dict[str, str] = {}
    for variable, value in decoded.variables.items():
        if variable in IN_THE_OPEN and (text := _text(value)) is not None:
            in_the_open[variable] = text
        else:
            confidential[variable] = base64.b64encode(value).decode()
    return in_the_open, confidential, {key: env_vars[key] for key in references_in(env_vars)}


def _object(api_version: str, kind: str, name: str, namespace: str, **contents: Any) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **contents,
    }


def _text(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None

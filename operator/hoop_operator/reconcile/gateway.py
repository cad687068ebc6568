"""Resources of a hoop gateway as objects of ours: what may be read by all in Git, and the Secrets apart from it."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from hoop_operator.crd import API_VERSION, HoopResourceSpec
from hoop_operator.credentials.env import decode, references_in

IN_THE_OPEN = frozenset({"HOST", "PORT", "DB", "SSLMODE"})
"""Variables that are no secret; whatever else a resource has goes into its Secret."""

OBJECT_NAME_LENGTH = 128
READABLE_LENGTH = 60

_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class FromGateway:
    """What became of a gateway's resources, as manifests."""

    resources: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[dict[str, Any]] = field(default_factory=list, repr=False)
    remarks: list[str] = field(default_factory=list)
    """What could not be taken over, and what a person should know; no value is quoted."""


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
        _take_over(item, namespace, found)
    return found


def _take_over(item: Mapping[str, Any], namespace: str, found: FromGateway) -> None:
    name: str = item["name"]
    object_name = _object_name(name)
    env_vars = item.get("env_vars") or {}
    if not isinstance(env_vars, Mapping) or not all(isinstance(value, str) for value in env_vars.values()):
        found.remarks.append(f"{name}: left out, its env_vars are no map of texts")
        return
    decoded = decode(env_vars, "env_vars")
    if decoded.problems:
        found.remarks.append(f"{name}: left out, {'; '.join(decoded.problems)}")
        return
    open_variables, secret_variables = {}, {}
    for variable, value in decoded.variables.items():
        if variable in IN_THE_OPEN and (text := _text(value)) is not None:
            open_variables[variable] = text
        else:
            secret_variables[variable] = base64.b64encode(value).decode()
    referring = {key: value for key, value in env_vars.items() if any(references_in({key: value}))}
    spec: dict[str, Any] = {"type": item.get("type"), "subtype": item.get("subtype") or item.get("type")}
    if name != object_name:
        spec["resourceName"] = name
    if open_variables or referring:
        spec["envVars"] = {**open_variables, **referring}
    if secret_variables:
        spec["envVarsFrom"] = [{"secretRef": {"name": f"{object_name}-admin"}}]
    try:
        HoopResourceSpec.model_validate(spec)
    except ValidationError as error:
        fields = sorted({".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)})
        found.remarks.append(f"{name}: left out, these fields are not ours: {', '.join(fields)}")
        return
    if not secret_variables and not open_variables and not referring:
        found.remarks.append(f"{name}: left out, it has no env_vars")
        return
    found.resources.append(_object(API_VERSION, "HoopResource", object_name, namespace, spec=spec))
    if secret_variables:
        found.secrets.append(
            _object("v1", "Secret", f"{object_name}-admin", namespace, type="Opaque", data=secret_variables)
        )
    if item.get("agent_id"):
        found.remarks.append(
            f"{name}: its agent_id is left out; set spec.agentId only for an operator that has HOOP_AGENT_ID"
        )
    if referring:
        found.remarks.append(
            f"{name}: {', '.join(sorted(referring))} refer to AWS or to the environment; the operator's settings have "
            f"to allow that to namespace {namespace}"
        )


def _object(api_version: str, kind: str, name: str, namespace: str, **contents: Any) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **contents,
    }


def _object_name(name: str) -> str:
    """The name itself where Kubernetes takes it, else what can be read of it, and a hash."""
    if len(name) <= OBJECT_NAME_LENGTH and _OBJECT_NAME.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower())[:READABLE_LENGTH].strip("-") or "x"
    return f"{readable}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}"


def _text(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None

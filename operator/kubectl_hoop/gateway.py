"""Resources of a hoop gateway as objects of ours: what may be read by all in Git, and the Secrets apart from it."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from hoop_operator.crd import (
    API_VERSION,
    DATABASE_SUBTYPES,
    HOOP_RESOURCE,
    LOWER_CASE_LABEL,
    HoopResourceSpec,
    ResourceType,
)
from hoop_operator.credentials.connection import SslMode
from hoop_operator.credentials.env import decode, references_in
from hoop_operator.credentials.hosts import connection_host
from hoop_operator.naming import resource_object_name

QUOTED_LENGTH = 200
DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")


def _is_host(text: str) -> bool:
    try:
        connection_host(text, "default")
    except ValueError:
        return False
    return True


IN_THE_OPEN: Mapping[str, Callable[[str], object]] = {
    "HOST": _is_host,
    "PORT": re.compile(r"[0-9]{1,5}").fullmatch,
    "DB": DATABASE_NAME.fullmatch,
    "SSLMODE": set(SslMode).__contains__,
}
"""Variables that are no secret as long as they are what their name says; a URI, for one, may hold a password.

Whatever else a resource has goes into its Secret."""


@dataclass(frozen=True, slots=True)
class FromGateway:
    """What became of a gateway's resources, as manifests. No value is quoted in what a person is told."""

    resources: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[dict[str, Any]] = field(default_factory=list, repr=False)
    left_out: list[str] = field(default_factory=list)
    """What could not be taken over, and why."""
    remarks: list[str] = field(default_factory=list)
    """What a person should know of what was."""
    names: set[str] = field(default_factory=set)
    """Of the objects that were made."""


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
        It is no such answer; if it is an error of the gateway, the message quotes that.
    """
    if isinstance(answer, Mapping) and isinstance(answer.get("message"), str):
        raise ValueError(  # noqa: TRY004 -- it is what the gateway says that is wrong
            f"the gateway refused to answer GET /api/resources, and said {_quoted(answer['message'])}; ask it anew, "
            f"with the token of somebody who may list resources"
        )
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
    if object_name in found.names:
        raise _LeftOut("the name is there twice, and the first was taken; rename one of them in FILE")
    secret_name = f"{object_name}-admin"
    in_the_open, confidential, references = _sorted_out(item.get("env_vars") or {})
    kind, subtype = _kind_of(item)
    spec: dict[str, Any] = {"type": kind, "subtype": subtype}
    if name != object_name:
        spec["resourceName"] = name
    if in_the_open or references:
        spec["envVars"] = in_the_open | references
    if confidential:
        spec["envVarsFrom"] = [{"secretRef": {"name": secret_name}}]
    try:
        HoopResourceSpec.model_validate(spec)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        told = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems]
        raise _LeftOut(f"a HoopResource cannot be that: {'; '.join(told)}") from None
    found.names.add(object_name)
    found.resources.append(_object(API_VERSION, HOOP_RESOURCE.kind, object_name, namespace, spec=spec))
    if confidential:
        found.secrets.append(
            _object("v1", "Secret", secret_name, namespace, type="Opaque", data=confidential)
        )
    if item.get("agent_id"):
        found.remarks.append(
            f"{name}: its agent_id is left out; set spec.agentId only for an operator that has HOOP_AGENT_ID"
        )
    if item.get("roles"):
        found.remarks.append(f"{name}: its roles are left out; write them into spec.roles")
    if references:
        found.remarks.append(
            f"{name}: {', '.join(sorted(references))} refer to AWS or to the environment; the operator's settings have "
            f"to allow that to namespace {namespace}"
        )


def _kind_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """Its type and subtype; at a gateway both may be anything."""
    kind, subtype = item.get("type"), item.get("subtype")
    if kind not in list(ResourceType):
        raise _LeftOut(_unfit("type", kind, f"one of {', '.join(ResourceType)}"))
    if kind == ResourceType.DATABASE:
        fits, allowed = subtype in DATABASE_SUBTYPES, f"one of {', '.join(DATABASE_SUBTYPES)}"
    else:
        fits = isinstance(subtype, str) and re.fullmatch(LOWER_CASE_LABEL, subtype) is not None
        allowed = "a lower-case label such as tcp, ssh or httpproxy"
    if not fits:
        raise _LeftOut(_unfit("subtype", subtype, allowed))
    return str(kind), str(subtype)


def _unfit(field: str, value: Any, allowed: str) -> str:
    what = f"{field} {_quoted(value)} is not supported" if value not in (None, "") else f"{field} is missing"
    return f"{what}; it must be {allowed}: correct it in FILE"


def _quoted(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= QUOTED_LENGTH else f"{text[:QUOTED_LENGTH]}…"


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
        is_plain = IN_THE_OPEN.get(variable)
        if is_plain is not None and (text := _text(value)) is not None and is_plain(text):
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

"""Every knob of the operator process, read from `HOOP_*` environment variables at start-up."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=253)]

LEASE_SECONDS_MAX = 300


def _from_json(value: Any) -> Any:
    """Decode the text of a variable; anything else is a value already."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise PydanticCustomError("json", 'must be a JSON list, such as ["first", "second"]') from None


_JSON = (NoDecode, BeforeValidator(_from_json))
"""Decoded with the validation, so that what is no JSON is told together with all else that is wrong."""

TimeoutSeconds = Annotated[float, Field(ge=0.001, le=86400)]
"""PostgreSQL counts whole milliseconds: none of them would be no time-out, and more than 2^31 are refused."""


class Settings(BaseSettings):
    """The operator's settings; a field `x` is read from the environment variable `HOOP_X`."""

    model_config = SettingsConfigDict(env_prefix="HOOP_", frozen=True)

    instance: DnsLabel = "default"
    """Who we are to the servers: part of every role's ownership comment. A rebuilt cluster keeps it, a copy of a
    cluster that runs beside the original must be given another."""

    agent_id: UUID | None = None
    """With one, only resources of that `spec.agentId` are served; without, only those that name none."""

    lease_namespace: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] | None
    ) = None
    """Where the Lease is by which one of several processes leads. Without, that is the Pod's own namespace; outside a
    Pod there is no election then."""

    lease_seconds: Annotated[int, Field(ge=5, le=LEASE_SECONDS_MAX)] = 15
    """How long a process that vanished is still taken for the leader."""

    watch_namespaces: Annotated[list[str], *_JSON] = []
    """Namespaces to serve, as a JSON list; empty serves the whole cluster."""

    allowed_hosts: Annotated[list[Glob], *_JSON] = []
    """Host globs and CIDR networks that resources may name, as a JSON list; empty allows all. Link-local addresses
    are refused whatever stands here."""

    connections_per_server: Annotated[int, Field(ge=1, le=100)] = 4
    """The most sessions that are open on one server at a time."""

    connect_timeout_seconds: Annotated[int, Field(ge=2, le=60)] = 10
    """Seconds that connecting to a server may take."""

    lock_timeout_seconds: TimeoutSeconds = 5.0
    """Seconds that a statement waits for a lock before the run fails and is tried again."""

    statement_timeout_seconds: TimeoutSeconds = 60.0
    """Seconds that one statement may run."""

    drift_interval_seconds: Annotated[float, Field(ge=1)] = 300.0
    """Seconds between two looks at a server on which nothing is known to have changed, jittered by a tenth."""

    end_sessions_on_rotation: bool = False
    """End the sessions of a role that began before its password was replaced."""

    retry_seconds_max: Annotated[float, Field(ge=1, le=50)] = 30.0
    """The longest pause between two attempts at something that failed; it starts at one second and doubles."""

    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the probes and the metrics; 0 serves none."""

    log_level: Annotated[str, StringConstraints(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """Least severe level that is logged."""

    log_format: Literal["json", "text"] = "json"
    """`json`: one JSON object a line, for machines; `text`: for people."""

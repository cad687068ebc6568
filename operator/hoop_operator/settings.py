"""Every knob of the operator process, read from `HOOP_*` environment variables at start-up."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=253)]
NamespaceGlob = Annotated[str, StringConstraints(pattern=r"^[-a-z0-9*?]{1,63}$")]
SourceGlob = Annotated[str, StringConstraints(min_length=1, max_length=2048)]

LEASE_SECONDS_MAX = 300


def _json(what: str) -> tuple[Any, ...]:
    """Decode a variable's text with the validation, so that what is no JSON is told with all else that is wrong."""

    def decoded(value: Any) -> Any:
        """Anything but a text is a value already."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise PydanticCustomError("json", "must be a JSON {what}", {"what": what}) from None

    return NoDecode, BeforeValidator(decoded)


_LIST = _json('list, such as ["first", "second"]')
_MAP_OF_LISTS = _json('map of lists, such as {"shop": ["shop/*"]}')

Allowance = Annotated[dict[NamespaceGlob, list[SourceGlob]], *_MAP_OF_LISTS]

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

    watch_namespaces: Annotated[list[str], *_LIST] = []
    """Namespaces to serve, as a JSON list; empty serves the whole cluster."""

    allowed_hosts: Annotated[list[Glob], *_LIST] = []
    """Host globs and CIDR networks that resources may name, as a JSON list; empty allows all. Link-local addresses
    are refused whatever stands here."""

    allowed_aws_secrets: Allowance = {}
    """For globs of namespaces, globs of the secrets in AWS Secrets Manager that `_aws:` may name in their resources, as
    a JSON map of lists; empty allows none. A glob covers ARNs only where it begins with `arn:`."""

    allowed_envjson: Allowance = {}
    """For globs of namespaces, globs of the operator's own environment variables that `_envjson:` may name in their
    resources, as a JSON map of lists; empty allows none."""

    aws_region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    """Where secrets are that are named without an ARN; without, boto3's own configuration decides."""

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

    api_namespace: DnsLabel = "default"
    """Namespace in which `hoop-operator serve` keeps its objects."""

    api_port: Annotated[int, Field(ge=1, le=65535)] = 8090
    """Port of `hoop-operator serve`."""

    api_plan_applies: bool = False
    """Have `plan` of `hoop-operator serve` apply at once, rather than wait for `apply`."""

    api_wait_seconds: Annotated[float, Field(ge=1, le=300)] = 30.0
    """Seconds that a request to `hoop-operator serve` waits for the operator."""

    log_level: Annotated[str, StringConstraints(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """Least severe level that is logged."""

    log_format: Literal["json", "text"] = "json"
    """`json`: one JSON object a line, for machines; `text`: for people."""

    def watches(self, namespace: str) -> bool:
        """Whether a namespace is among those to serve."""
        return not self.watch_namespaces or namespace in self.watch_namespaces


def unknown_variables(environment: Iterable[str]) -> set[str]:
    """Of the names of environment variables, those that look like settings of the API and are none."""
    known = {f"HOOP_{field.upper()}" for field in Settings.model_fields}
    return {name for name in environment if name.startswith("HOOP_API_")} - known

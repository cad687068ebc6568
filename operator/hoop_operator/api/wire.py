"""What hoop's clients send and are sent.

Fields that are not known are ignored, as hoop does. What a field may hold is the business of the kinds in `crd` and of
the API server; here is only what hoop says otherwise.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
)

from hoop_operator.crd import PlanType, Privilege, ResourceType

ITEMS_AT_ONCE = 100
"""The most items of a batch."""


HIDDEN = "********"
"""What is shown of every value of `env_vars`."""


class Wire(BaseModel):
    """Base of all models; no value is in an error's text."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        """JSON can escape halves of a character, which are no text (RFC 8259, section 8.2)."""
        try:
            _refuse_halves(value)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return value


def _reachable(name: str) -> str:
    if "/" in name or name in {".", ".."}:
        raise ValueError("no name may be . or .. or have a / in it: it is part of URLs")
    if not name.strip():
        raise ValueError("a name has more than blanks in it")
    return name


def _refuse_halves(value: Any, place: str = "") -> None:
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                prefix = f"{place}: " if place else ""
                raise ValueError(f"{prefix}half a UTF-16 surrogate pair is no character") from None
        case dict():
            for key, entry in value.items():
                _refuse_halves(key, f"{place}[a key]")
                _refuse_halves(entry, f'{place}["{key}"]')
        case list():
            for number, entry in enumerate(value):
                _refuse_halves(entry, f"{place}[{number}]")


def _no_mask(values: dict[str, str]) -> dict[str, str]:
    for key, value in values.items():
        if value == HIDDEN:
            raise ValueError(f'["{key}"]: {HIDDEN} is what answers show; send the value itself')
    return values


def _none_for_empty(value: Any) -> Any:
    # hoop's own clients are written in Go and send what is not set as an empty string.
    return None if value == "" else value


def _empty_for_none(value: Any) -> Any:
    return [] if value is None else value


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_reachable)]
Label = Annotated[str, Field(min_length=1, max_length=44)]
AgentId = Annotated[UUID | None, BeforeValidator(_none_for_empty)]
Subtype = Annotated[str | None, BeforeValidator(_none_for_empty)]
Values = Annotated[dict[str, str], Field(repr=False), AfterValidator(_no_mask)]


class Message(Wire):
    """What went wrong."""

    message: str
    """The cause, and the remedy; one line for each field where several are wrong."""


class ResourceRoleRequest(Wire):
    """A connection that belongs to the resource."""

    name: str
    """Its name, a lower-case label."""

    type: Annotated[ResourceType | None, BeforeValidator(_none_for_empty)] = None
    """Main type. Default: the resource's."""

    subtype: Subtype = None
    """Subtype. Default: the resource's."""

    command: Annotated[list[str], BeforeValidator(_empty_for_none)] = []
    """Program and arguments that open the connection."""

    agent_id: AgentId = None
    """Which operator serves it. Default: the resource's."""

    secret: Values = {}
    """Its variables, in the syntax of `env_vars`."""


class ResourceChange(Wire):
    """What a resource is to be."""

    type: ResourceType
    """Main type: database, application or custom."""

    subtype: Subtype = None
    """What exactly it is, such as postgres. Default: the type."""

    agent_id: AgentId = None
    """Which operator serves it. Default: the one that this API is set up for."""

    env_vars: Annotated[Values, Field(min_length=1)]
    """The connection: keys `envvar:NAME` or `filesystem:NAME` with values in base64, or references
    `_aws:SECRET:KEY` and `_envjson:ENV:KEY`; a bare NAME has a literal value."""


class ResourceReplacement(ResourceChange):
    """What a resource that is there is to be. Its roles stay as they are."""

    name: Annotated[str | None, BeforeValidator(_none_for_empty)] = None
    """Its name, as in the URL."""


class ResourceRequest(ResourceChange):
    """A resource to make."""

    name: Name
    """Its name, from which the names of PostgreSQL roles derive."""

    roles: Annotated[list[ResourceRoleRequest], BeforeValidator(_empty_for_none)] = []
    """Connections that belong to it."""


class Resource(Wire):
    """A resource."""

    id: str
    """The object's uid."""

    name: str
    """Its name."""

    type: str
    """Main type."""

    subtype: str
    """What exactly it is."""

    agent_id: str
    """Which operator serves it; empty for the one without an id."""

    env_vars: dict[str, str]
    """The keys it was given. Every value is `********`."""

    created_at: str
    """When it was made, in RFC 3339."""

    updated_at: str
    """When the operator last registered it, in RFC 3339."""


class Pages(Wire):
    """Where in the list one is."""

    total: int
    """How many resources there are."""

    page: int
    """Which page this is, from 1."""

    size: int
    """How many resources a page has."""


class ResourcePage(Wire):
    """One page of the resources."""

    pages: Pages
    """Where in the list this is."""

    data: list[Resource]
    """Its resources, by name."""


class HealthRequest(Wire):
    """Whose health is asked for."""

    names: Annotated[list[str], Field(min_length=1, max_length=ITEMS_AT_ONCE)]
    """Names of resources."""


class Health(Wire):
    """What the operator found when it last looked."""

    output: str
    """What it found, in words."""

    status: Literal["success", "failed"]
    """Whether plans can be run on the resource."""


class NamedHealth(Health):
    """The health of one of several resources."""

    resource_name: str
    """Its name."""


class HealthResults(Wire):
    """The health of several resources."""

    results: list[NamedHealth]
    """In the order of the names."""


def _supported(privileges: list[str]) -> list[str]:
    unsupported = [privilege for privilege in privileges if privilege not in set(Privilege)]
    if unsupported:
        raise ValueError(f"found unsupported privileges=[{' '.join(unsupported)}]")
    return list(dict.fromkeys(privileges))


def _meant(scopes: list[str]) -> list[str]:
    for scope in scopes:
        if '"' not in scope and scope.count(".") > 1:
            raise ValueError(
                f"scope {scope!r} has too many parts: grants are made on whole schemas, as database or "
                f"database.schema; a name with a dot in it stands in double quotes"
            )
    return list(dict.fromkeys(scopes))


class PlanRequest(Wire):
    """A login role, and what it may do."""

    type: PlanType
    """managed: it may do what `privileges` and `scopes` say. external: it is a member of `source_role`."""

    role: Label
    """Short label that the name of the PostgreSQL role derives from."""

    scopes: Annotated[list[str], AfterValidator(_meant)]
    """Where: `database` or `database.schema`. Ignored for external."""

    privileges: Annotated[
        list[str],
        AfterValidator(_supported),
        Field(json_schema_extra={"items": {"type": "string", "enum": [str(name) for name in Privilege]}}),
    ]
    """What. Ignored for external."""

    source_role: Annotated[str | None, BeforeValidator(_none_for_empty)] = None
    """The role to be a member of. Ignored for managed."""

    rotate_password: StrictBool = False
    """Give the role a new password when this is applied, if it exists already."""

    resource_name: str = ""
    """Ignored: the URL names the resource."""


class PlanItem(PlanRequest):
    """A plan of a batch."""

    resource_name: Annotated[str, Field(min_length=1)]
    """The resource to plan on."""

    role: str
    """Short label that the name of the PostgreSQL role derives from; no other item of that resource has it."""

    scopes: list[str]
    """Where: `database` or `database.schema`. Ignored for external."""


class PlanBatch(Wire):
    """Several plans."""

    items: Annotated[list[PlanItem], Field(min_length=1, max_length=ITEMS_AT_ONCE)]
    """They are made at the same time."""


class PlanResult(Wire):
    """What became of a plan."""

    sid: str
    """Names this plan for `apply`; empty where there is none."""

    resource_name: str
    """The resource."""

    role: str
    """The PostgreSQL role."""

    status: Literal["success", "failed"]
    """Whether it could be planned."""

    message: str
    """The SQL that `apply` will run, or what is wrong."""


class PlanResults(Wire):
    """What became of several plans."""

    results: list[PlanResult]
    """In the order of the items."""


class ApplyRequest(Wire):
    """A plan to apply."""

    sid: Annotated[str, Field(min_length=1, max_length=36)]
    """What `plan` called it."""


class ApplyItem(ApplyRequest):
    """A plan of a batch to apply."""

    resource_name: Annotated[str, Field(min_length=1)]
    """The resource it was made for."""

    sid: str
    """What `plan` called it; an empty one, of a plan that failed, fails."""


class ApplyBatch(Wire):
    """Several plans to apply."""

    items: Annotated[list[ApplyItem], Field(min_length=1, max_length=ITEMS_AT_ONCE)]
    """They are applied at the same time."""


class ApplyResult(Wire):
    """What became of an apply."""

    sid: str
    """Names this apply."""

    resource_name: str
    """The resource."""

    status: Literal["success", "failed", "skipped"]
    """Whether it was applied; skipped where nothing was left to do."""

    message: str
    """Where the credentials are, or what is wrong."""


class ApplyResults(Wire):
    """What became of several applies."""

    results: list[ApplyResult]
    """In the order of the items."""

"""What both kinds share: the API group, the base of every model, field types, and how CEL rules are written.

An attribute's docstring is its description in the CRD, so it speaks to the reader of `kubectl explain`.
"""

import json
from bisect import bisect_right
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

GROUP = "hoop.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class KubernetesModel(BaseModel):
    """Base of all models: snake_case here, camelCase on the wire, immutable, no value in an error's text."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


def rule(
    expression: str,
    message: str,
    *,
    field: str | None = None,
    missing: bool = False,
) -> JsonDict:
    """Return one entry of `x-kubernetes-validations`.

    Parameters
    ----------
    expression
        CEL that must be true of `self`.
    message
        What to tell a person: the field and the remedy.
    field
        Path below `self` that the API server shall name, such as `secretRef`; without it, `self`.
    missing
        The fault is an absent field; the API server then speaks of a required value.
    """
    entry: JsonDict = {"rule": expression, "message": message}
    if field:
        entry["fieldPath"] = f".{field}"
    if missing:
        entry["reason"] = "FieldValueRequired"
    return entry


def no_key(condition: str, message: str) -> JsonDict:
    """Return the rule that no key `k` of a map meets the CEL `condition`; the message names one that does."""
    quoted = message.replace("'", r"\'")
    return rule(f"!self.exists(k, {condition})", message) | {
        "messageExpression": f"'{quoted}; found: ' + self.filter(k, {condition})[0]"
    }


def checked(*rules: JsonDict) -> JsonDict:
    """Return the schema keywords that make the API server check `rules` on a field or a model."""
    return {"x-kubernetes-validations": list(rules)}


def immutable(field: str) -> JsonDict:
    """Return the rule that a required field keeps its value."""
    return rule("self == oldSelf", f"{field} cannot be changed: delete the object and create it anew")


SET: JsonDict = {"x-kubernetes-list-type": "set"}
"""A list without order or repetition."""

ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}
"""A list that server-side apply replaces as a whole."""


def keyed_by(key: str) -> JsonDict:
    """Return the schema keywords of a list of objects that `key` tells apart."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def clip(limit: int) -> BeforeValidator:
    """Cut a reported text or list to `limit`: the API server must never refuse a status for its size."""

    def cut(value: Any) -> Any:
        if isinstance(value, str) and len(value) > limit:
            return value[: limit - 1] + "…"
        return value[:limit] if isinstance(value, (list, tuple)) else value

    return BeforeValidator(cut)


def stored_bytes(text: str) -> int:
    """Return how many bytes a text takes up in etcd, where custom resources are JSON as Go's encoder writes it."""
    return len(json.dumps(text, ensure_ascii=False).encode()) + 5 * sum(map(text.count, "<>&"))


def clip_stored(limit: int) -> BeforeValidator:
    """Cut a reported text to `limit` bytes as they are stored: etcd must never refuse a status for its size."""

    def cut(value: Any) -> Any:
        if not isinstance(value, str) or stored_bytes(value) <= limit:
            return value
        fitting = bisect_right(
            range(len(value)), limit, key=lambda length: stored_bytes(value[:length] + "…")
        )
        return value[: fitting - 1] + "…"

    return BeforeValidator(cut)


def clip_stored_list(limit: int) -> AfterValidator:
    """Keep as many of the first texts of a list as fit into `limit` bytes as they are stored."""

    def cut(texts: tuple[str, ...]) -> tuple[str, ...]:
        sizes = accumulate(stored_bytes(text) + 1 for text in texts)
        return tuple(text for text, size in zip(texts, sizes, strict=True) if size <= limit)

    return AfterValidator(cut)


def _in_whole_seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"

LOWER_CASE_LABEL = f"^{_LABEL}$"
"""RFC 1123 label, as a regular expression; its length of at most 63 is checked apart."""

DnsLabel = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        json_schema_extra=checked(
            rule(
                f"self.matches('{LOWER_CASE_LABEL}')",
                "a label has lower-case letters, digits and '-', with a letter or digit at both ends",
            )
        ),
    ),
]

SUBDOMAIN_RULE = rule(
    f"self.matches('^{_LABEL}([.]{_LABEL})*$')",
    "a name has lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
)

DnsSubdomain = Annotated[str, Field(min_length=1, max_length=253, json_schema_extra=checked(SUBDOMAIN_RULE))]

Scope = Annotated[
    str,
    Field(
        max_length=257,
        json_schema_extra=checked(
            rule(
                r"""self.matches('^("([^"]|"")+"|[^".]+)([.]("([^"]|"")+"|[^"]+))?$')""",
                'a scope is "database" or "database.schema"; a name with a dot in it stands in double quotes',
            )
        ),
    ),
]

LabelValue = Annotated[
    str,
    Field(
        max_length=63,
        json_schema_extra=checked(
            rule(
                "self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",
                "a label's value has letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )
        ),
    ),
]

Timestamp = Annotated[AwareDatetime, PlainSerializer(_in_whole_seconds, when_used="json")]

NonNegative = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]

ReportedName = Annotated[str, Field(max_length=253), clip(253)]

MESSAGE_BYTES = 24 * 1024
"""A status has one message of a run and repeats it in conditions; all of it has to fit into one object of etcd."""

Message = Annotated[str, Field(max_length=32768), clip_stored(MESSAGE_BYTES)]


class Approval(StrEnum):
    """Whether a computed plan is applied by itself or waits for a person."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Privilege(StrEnum):
    """A privilege that a managed plan may ask for."""

    SELECT = "SELECT"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    TRUNCATE = "TRUNCATE"
    REFERENCES = "REFERENCES"
    TRIGGER = "TRIGGER"
    CREATE = "CREATE"
    EXECUTE = "EXECUTE"


class Outcome(StrEnum):
    """How the last run ended."""

    SUCCESS = "success"
    FAILED = "failed"


class Condition(KubernetesModel):
    """One observation of the object's state, in the form that `kubectl wait` understands."""

    type: Annotated[str, Field(max_length=316)]
    """What is observed, such as Ready."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds: True, False or Unknown."""

    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one CamelCase word that scripts may match on."""

    message: Message = ""
    """Why, for a person: the cause and, where something is wrong, the remedy."""

    last_transition_time: Timestamp
    """When `status` last became what it is."""

    observed_generation: NonNegative | None = None
    """The `metadata.generation` that was looked at."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(max_length=16, json_schema_extra=keyed_by("type")),
]

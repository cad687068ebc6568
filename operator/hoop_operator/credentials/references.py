"""References of hoop's env syntax: what they name, who may name it, and what a secret of several values holds."""

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

# No base64 looks like it: `_` and `:` are not in its alphabet.
_PREFIX = re.compile(r"_(?P<kind>[A-Za-z0-9_]+):")
_REFERENCE = re.compile(r"_(?P<kind>aws|envjson):(?P<source>.+):(?P<key>[^:]+)", re.DOTALL)
_ARN = "arn:"


class ReferenceKind(StrEnum):
    """Where the operator is to look."""

    AWS = "aws"
    ENVJSON = "envjson"


class Reference(NamedTuple):
    """One value outside of the cluster: `key` of a secret, or of an environment variable, called `source`."""

    kind: ReferenceKind
    source: str
    key: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why a reference has no value, in words that quote none."""

    why: str


Values = Mapping[Reference, bytes | Unresolved]
"""What references came to."""

Allowance = Mapping[str, Sequence[str]]
"""For globs of namespaces, globs of what their resources may refer to."""


def parse_reference(text: str) -> Reference | None:
    """Read `_aws:SECRET:KEY` or `_envjson:ENV:KEY`; None for what is no reference.

    The last colon splits: an ARN has colons of its own.

    Raises
    ------
    ValueError
        It begins like a reference and is none, or of a kind that only others know; the message does not quote it.
    """
    prefix = _PREFIX.match(text)
    if prefix and not text.isprintable():
        # It stands in messages and in the log.
        raise ValueError("a reference must not hold a line break or another character that cannot be seen")
    if match := _REFERENCE.fullmatch(text):
        return Reference(ReferenceKind(match["kind"]), match["source"], match["key"])
    if prefix:
        if prefix["kind"] in set(ReferenceKind):
            raise ValueError("a reference must be written _aws:SECRET:KEY or _envjson:ENV:KEY")
        raise ValueError(
            "references of this kind are not supported; use _aws:SECRET:KEY, _envjson:ENV:KEY or the value itself"
        )
    return None


def is_arn(source: str) -> bool:
    """Tell whether a secret is named by its ARN."""
    return source.startswith(_ARN)


def is_allowed(source: str, namespace: str, allowance: Allowance) -> bool:
    """Tell whether the resources of a namespace may refer to a secret or an environment variable.

    A secret named by its ARN may be another account's or region's, so a glob must begin with `arn:` to cover it.
    """
    return any(
        fnmatch.fnmatchcase(source, glob)
        for namespaces, globs in allowance.items()
        if fnmatch.fnmatchcase(namespace, namespaces)
        for glob in globs
        if is_arn(glob) == is_arn(source)
    )


def member(text: str | bytes, key: str) -> bytes:
    """The value of a key in a JSON object: text as it is, a number, true or false as it is written.

    Raises
    ------
    ValueError
        There is none; the message quotes nothing but the key.
    """
    try:
        document = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object, so that it has no keys")  # noqa: TRY004 -- it is the value that is wrong
    value = document.get(key)
    if value is None:
        raise ValueError(f'its JSON object has no value for the key "{key}"')
    if isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise ValueError(f'what its JSON object has for the key "{key}" is neither text nor a number')  # noqa: TRY004
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f'what its JSON object has for the key "{key}" is not Unicode text') from None

"""hoop's syntax for environment variables, as `spec.envVars` and `spec.roles[].secret` use it."""

import base64
import dataclasses
import re
from collections.abc import Mapping
from contextlib import suppress

from hoop_operator.credentials.references import Reference, Unresolved, Values, parse_reference

ENV_VARS_FIELD = "spec.envVars"
NONE_FOLLOWED: Values = {}

_KEY = re.compile(r"(?:(?P<prefix>envvar|filesystem):)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_NOT_FOLLOWED = Unresolved("the reference was not followed")


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A map in hoop's syntax, read.

    `variables` maps NAME to its value and `files` names those that were written as `filesystem:NAME`.
    `problems` says what is malformed and `unresolved` which references came to nothing; `undecoded` holds the
    NAMEs that have no value because of either.
    """

    variables: Mapping[str, bytes] = dataclasses.field(repr=False)
    files: tuple[str, ...]
    problems: tuple[str, ...]
    unresolved: tuple[str, ...]
    undecoded: frozenset[str]


def references_in(env_vars: Mapping[str, str]) -> dict[str, Reference]:
    """The references of a map in hoop's syntax, by their keys in it; what is malformed is none."""
    found: dict[str, Reference] = {}
    for key, value in env_vars.items():
        match = _KEY.fullmatch(key)
        if match is not None and match["prefix"] is not None:
            with suppress(ValueError):
                if (reference := parse_reference(value)) is not None:
                    found[key] = reference
    return found


def decode(
    env_vars: Mapping[str, str], field: str = ENV_VARS_FIELD, values: Values = NONE_FOLLOWED
) -> Decoded:
    """Read a map in hoop's syntax.

    A bare NAME has a literal value. `envvar:NAME` and `filesystem:NAME` have a base64 value, in which line
    breaks do not count, or a reference `_aws:SECRET:KEY` or `_envjson:ENV:KEY`.

    Parameters
    ----------
    env_vars
        The map as the object has it.
    field
        Its path in the object, for the messages.
    values
        What its references came to; one that is not there is unresolved.
    """
    variables: dict[str, bytes] = {}
    files: list[str] = []
    problems: list[str] = []
    unresolved: list[str] = []
    undecoded: set[str] = set()
    key_of: dict[str, str] = {}
    for key, value in env_vars.items():
        place = f'{field}["{key}"]'
        match = _KEY.fullmatch(key)
        if match is None:
            problems.append(
                f"{place}: the key must be NAME, envvar:NAME or filesystem:NAME, where NAME has letters, "
                "digits and underscores only and does not start with a digit"
            )
            continue
        name, prefix = match["name"], match["prefix"]
        if name in key_of:
            problems.append(
                f'{field}: {name} is given twice, as "{key_of[name]}" and "{key}"; keep one of them'
            )
            continue
        key_of[name] = key
        if prefix == "filesystem":
            files.append(name)
        try:
            found = _literal(value) if prefix is None else _value(value, values, name)
        except ValueError as error:
            undecoded.add(name)
            problems.append(f"{place}: {error}")
            continue
        if isinstance(found, Unresolved):
            undecoded.add(name)
            unresolved.append(f"{place}: {found.why}")
        else:
            variables[name] = found
    return Decoded(variables, tuple(files), tuple(problems), tuple(unresolved), frozenset(undecoded))


def _literal(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("the value is not Unicode text") from None


def _value(text: str, values: Values, name: str) -> bytes | Unresolved:
    reference = parse_reference(text)
    if reference is not None:
        return values.get(reference, _NOT_FOLLOWED)
    try:
        return base64.b64decode(re.sub(r"[\r\n]", "", text), validate=True)
    except ValueError:
        raise ValueError(
            f'the value is not base64; encode it, or use the key "{name}" for plain text'
        ) from None

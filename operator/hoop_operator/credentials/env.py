"""hoop's syntax for environment variables, as `spec.envVars` and `spec.roles[].secret` use it."""

import base64
import dataclasses
import re
from collections.abc import Mapping

from hoop_operator.credentials.faults import raise_faults

ENV_VARS_FIELD = "spec.envVars"

_KEY = re.compile(r"(?:(?P<prefix>envvar|filesystem):)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_REFERENCE_KIND = re.compile(r"_(?:aws|envjson):")
_REFERENCE = re.compile(r"_(?:aws|envjson):.+:[^:]+", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A map in hoop's syntax, read.

    `variables` maps NAME to its value and `files` names those that were written as `filesystem:NAME`.
    `problems` says what is malformed and `unresolved` which references were not followed; `undecoded` holds
    the NAMEs that have no value because of either.
    """

    variables: Mapping[str, bytes] = dataclasses.field(repr=False)
    files: tuple[str, ...]
    problems: tuple[str, ...]
    unresolved: tuple[str, ...]
    undecoded: frozenset[str]


def decode(env_vars: Mapping[str, str], field: str = ENV_VARS_FIELD) -> Decoded:
    """Read a map in hoop's syntax.

    A bare NAME has a literal value. `envvar:NAME` and `filesystem:NAME` have a base64 value, in which line
    breaks do not count, or a reference `_aws:SECRET:KEY` or `_envjson:ENV:KEY`. References are not followed.

    Parameters
    ----------
    env_vars
        The map as the object has it.
    field
        Its path in the object, for the messages.
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
        if prefix is None:
            variables[name] = value.encode()
        elif _REFERENCE.fullmatch(value):
            undecoded.add(name)
            unresolved.append(
                f"{place}: this operator is not allowed to follow the reference; give the value itself"
            )
        elif _REFERENCE_KIND.match(value):
            undecoded.add(name)
            problems.append(f"{place}: a reference must be written _aws:SECRET:KEY or _envjson:ENV:KEY")
        else:
            try:
                variables[name] = base64.b64decode(re.sub(r"[\r\n]", "", value), validate=True)
            except ValueError:
                undecoded.add(name)
                problems.append(
                    f'{place}: the value is not base64; encode it, or use the key "{name}" for plain text'
                )
    return Decoded(variables, tuple(files), tuple(problems), tuple(unresolved), frozenset(undecoded))


def decode_whole(env_vars: Mapping[str, str], field: str = ENV_VARS_FIELD) -> Decoded:
    """Read a map in hoop's syntax in which every variable must have its value.

    Raises
    ------
    ResourceFailure
        `CredentialsInvalid` or `CredentialsUnresolved`, naming every entry that has none.
    """
    decoded = decode(env_vars, field)
    raise_faults(malformed=decoded.problems, unresolved=decoded.unresolved)
    return decoded

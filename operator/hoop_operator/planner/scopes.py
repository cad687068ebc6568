"""Scopes: `database` or `database.schema`, and the globs that guardrails match them with."""

import fnmatch
import re
from dataclasses import dataclass

DEFAULT_SCHEMA = "public"
IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer names silently (NAMEDATALEN is 64), so a longer one may mean another object."""

_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True, order=True, slots=True)
class Scope:
    """One schema of one database, both names as the server spells them."""

    database: str
    schema: str

    def __str__(self) -> str:
        """Write the scope so that `parse_scope` reads the same one; quotes only where they are needed."""
        database = _quote(self.database) if '"' in self.database or "." in self.database else self.database
        schema = _quote(self.schema) if '"' in self.schema else self.schema
        return f"{database}.{schema}"


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    quoted: bool


def parse_scope(text: str) -> Scope:
    """Read `database` or `database.schema`; a part may be quoted as in SQL and no case is folded.

    The first dot outside of quotes splits, so an unquoted schema may hold further dots. Without a schema,
    `public` is meant.

    Raises
    ------
    ValueError
        A part is empty, malformed, longer than a PostgreSQL identifier or a schema of the system; the message
        names the scope and the remedy.
    """
    database, schema = _split(text)
    for kind, part in (("database", database), ("schema", schema)):
        if "\0" in part.name:
            raise ValueError(f"scope {text!r}: the {kind} name holds a NUL character; remove it")
        if len(part.name.encode()) > IDENTIFIER_BYTES:
            raise ValueError(
                f"scope {text!r}: the {kind} has more than the {IDENTIFIER_BYTES} bytes of a PostgreSQL name"
            )
    if schema.name.startswith("pg_") or schema.name == "information_schema":
        raise ValueError(
            f"scope {text!r}: {schema.name} belongs to the system and is never a scope; remove it"
        )
    return Scope(database.name, schema.name)


def scope_matches(glob: str, scope: Scope) -> bool:
    """Tell whether a glob of a guardrail covers a scope.

    The glob is read like a scope, so `shop` covers `shop.public` alone and `shop.*` every schema of `shop`.
    Both parts must match, with regard to case; `*`, `?` and `[...]` are wildcards except in a quoted part.

    Raises
    ------
    ValueError
        The glob cannot be read as a scope.
    """
    database, schema = _split(glob)
    return _part_matches(database, scope.database) and _part_matches(schema, scope.schema)


def _part_matches(part: _Part, name: str) -> bool:
    return part.name == name if part.quoted else fnmatch.fnmatchcase(name, part.name)


def _split(text: str) -> tuple[_Part, _Part]:
    quoted = _QUOTED.match(text)
    if quoted and text[quoted.end() :][:1] not in ("", "."):
        raise ValueError(f"scope {text!r}: only a dot and a schema may follow the closing quote")
    end_of_database = quoted.end() if quoted else text.find(".")
    if end_of_database in (-1, len(text)):
        return _part(text, text), _Part(DEFAULT_SCHEMA, quoted=True)
    return _part(text, text[:end_of_database]), _part(text, text[end_of_database + 1 :])


def _part(scope: str, text: str) -> _Part:
    quoted = _QUOTED.fullmatch(text)
    name = quoted[1].replace('""', '"') if quoted else text
    if not name:
        raise ValueError(f"scope {scope!r}: a name is empty; write database or database.schema")
    if not quoted and '"' in name:
        raise ValueError(f"scope {scope!r}: a quote must enclose a whole name and be doubled inside of it")
    return _Part(name, quoted is not None)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

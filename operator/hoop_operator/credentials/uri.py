"""PostgreSQL connection URIs, in the narrow form that the operator takes."""

import re
from urllib.parse import unquote_to_bytes

# The grammar of libpq, "Connection URIs": unlike in other URIs, `?` and `#` may stand in a user or password.
_URI = re.compile(
    r"postgres(?:ql)?://"
    r"(?:(?P<USER>[^:@/]*)(?::(?P<PASS>[^@/]*))?@)?"
    r"(?P<HOST>\[[^\]/?]*\]|(?:[^\[:/?][^:/?]*)?)(?::(?P<PORT>[^/?@]*))?"
    r"(?:/(?P<DB>[^?]*))?"
    r"(?:\?(?P<parameters>.*))?",
    re.DOTALL,
)
_PERCENT_ENCODED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*", re.DOTALL)
_PARAMETERS = {"sslmode": "SSLMODE", "connect_timeout": "CONNECT_TIMEOUT"}


def parse_uri(uri: bytes) -> tuple[dict[str, bytes], list[str]]:
    """Take a `postgresql://` or `postgres://` URI apart.

    Returns
    -------
    The parts that are there, percent-decoded, as HOST, PORT, USER, PASS, DB, SSLMODE and CONNECT_TIMEOUT; and
    what is wrong, in words that quote nothing: a password that lacks its percent-encoding may be in any part.
    """
    try:
        match = _URI.fullmatch(uri.decode())
    except UnicodeDecodeError:
        return {}, ["it is not UTF-8 text"]
    if match is None:
        return {}, [
            "it does not read postgresql://user:password@host:port/database with every part percent-encoded"
        ]
    parts = match.groupdict(default="")
    parameters = parts.pop("parameters")
    problems = []
    if not parts["HOST"]:
        problems.append("it has no host; a socket cannot be used")
    if "," in parts["HOST"] + parts["PORT"]:
        problems.append("it names several hosts; leave one")
    for parameter in filter(None, parameters.split("&")):
        key, _, value = parameter.partition("=")
        name = _PARAMETERS.get(key)
        if name is None:
            problems.append(
                "it has a parameter other than sslmode and connect_timeout; remove that parameter"
            )
        elif name in parts:
            problems.append(f"it has the parameter {key} twice; leave one")
        else:
            parts[name] = value
    if not all(_PERCENT_ENCODED.fullmatch(part) for part in parts.values()):
        problems.append(
            "a percent sign in it is not followed by two hexadecimal digits; write %25 for a percent sign"
        )
    return {name: unquote_to_bytes(part) for name, part in parts.items() if part}, problems

"""What a plan's output Secret holds."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from hoop_operator.crd import OUTPUT_SECRET_KEYS

QUOTED_LENGTH_MAX = 1024 * 1024
"""More than that no Secret can hold (Kubernetes manual, "Secrets", size limit): a short template may quote a long
certificate a thousand times."""

_PLACEHOLDER = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^${}]*)\})?")


def output_data(
    *,
    host: str,
    port: int,
    username: str,
    password: str,
    database: str,
    databases: Sequence[str],
    sslmode: str,
    ca_certificate: str | None,
) -> dict[str, str]:
    """Write down a login in every form that clients read, from Service Binding's keys to a JDBC URI.

    Parameters
    ----------
    database
        The one that `uri` and `jdbc-uri` lead to.
    databases
        All that the role may connect to; `pgpass` is good for any of them.
    ca_certificate
        PEM contents, None to leave `ca.crt` out.
    """
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = f"{authority}/{_encode(database)}"
    login = f"{_encode(username)}:{_encode(password)}"
    parameters = f"user={_encode(username)}&password={_encode(password)}&sslmode={sslmode}"
    data = {
        "type": "postgresql",
        "provider": "hoop",
        "host": host,
        "port": str(port),
        "username": username,
        "user": username,
        "password": password,
        "database": database,
        "dbname": database,
        "databases": ",".join(_encode(name) for name in databases),
        "sslmode": sslmode,
        "uri": f"postgresql://{login}@{path}?sslmode={sslmode}",
        "jdbc-uri": f"jdbc:postgresql://{path}?{parameters}",
        "pgpass": f"{_escape(host)}:{port}:*:{_escape(username)}:{_escape(password)}\n",
    }
    return data if ca_certificate is None else data | {"ca.crt": ca_certificate}


def render_template(template: Mapping[str, str], data: Mapping[str, str]) -> dict[str, str]:
    """Fill in the extra keys that `spec.secretTemplate.data` asks for.

    `${name}` stands for a key of `data`, the output of `output_data`, and `$$` for a dollar.

    Raises
    ------
    ValueError
        A key is one of the operator's own, a name is unknown, or a dollar stands alone; the message lists all. Or the
        values would be more than a Secret can hold; then they are not even put together.
    """
    quoted = sum(
        len(data.get(match["name"] or "", ""))
        for text in template.values()
        for match in _PLACEHOLDER.finditer(text)
    )
    if quoted > QUOTED_LENGTH_MAX:
        raise ValueError(
            "spec.secretTemplate.data: the values come to more than the 1 MiB that a Secret can hold; quote less"
        )
    problems: list[str] = []
    rendered: dict[str, str] = {}
    for key, text in template.items():
        place = f'spec.secretTemplate.data["{key}"]'
        if key in OUTPUT_SECRET_KEYS:
            problems.append(f"{place}: the operator writes this key itself; choose another one")
        for match in _PLACEHOLDER.finditer(text):
            name = match["name"]
            if name is None and match["dollar"] is None:
                problems.append(f"{place}: a dollar must be written $$, or start a name as in ${{host}}")
            elif name == "ca.crt" and name not in data:
                problems.append(
                    f"{place}: there is no ca.crt; add SSLROOTCERT to the resource or drop the name"
                )
            elif name is not None and name not in data:
                problems.append(f"{place}: ${{{name}}} is unknown; the names are {', '.join(sorted(data))}")
        rendered[key] = _PLACEHOLDER.sub(
            lambda match: "$" if match["dollar"] else data.get(match["name"], ""), text
        )
    if problems:
        raise ValueError("; ".join(problems))
    return rendered


def _encode(text: str) -> str:
    return quote(text, safe="")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")

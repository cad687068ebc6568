"""Which hosts a resource may name."""

import fnmatch
import ipaddress
import re
import socket
from collections.abc import Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = "[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_HOST_NAME = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*\.?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def connection_host(text: str, namespace: str) -> str:
    """Check a host and complete it: a name without a dot is a Service of the namespace, except `localhost`.

    Raises
    ------
    ValueError
        It is not one host, or link-local; the message does not quote it.
    """
    host = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    literal = _parsed(host)
    if "%" in host or (literal is None and not _HOST_NAME.fullmatch(host)):
        raise ValueError(
            "it must be one host name or address, without a list, socket path, port, zone or white space"
        )
    if is_link_local(host):
        raise ValueError("link-local addresses are never allowed; name the database server's own address")
    if literal is not None:
        return str(literal)
    if _address(host) is not None:
        raise ValueError("an IPv4 address must be written as four decimal numbers")
    if "." in host or host.lower() == "localhost":
        return host
    return f"{host}.{namespace}.svc"


def host_allowed(host: str, allowed_hosts: Iterable[str]) -> bool:
    """Tell whether the operator's setting lets resources name a host, as `connection_host` returns it.

    A glob in `allowed_hosts` is matched against the host as it is written, without regard to case. A network
    covers addresses only: what a name resolves to may change at any time, so a name needs a glob. Without
    entries every host is allowed.
    """
    entries = list(allowed_hosts)
    address = _address(host)
    for entry in entries:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            if fnmatch.fnmatchcase(host.lower().rstrip("."), entry.lower()):
                return True
        else:
            if address is not None and address in network:
                return True
    return not entries


def is_link_local(address: str) -> bool:
    """Tell whether a numeric address is link-local, in any spelling that `getaddrinfo` takes; a name is not.

    That is 169.254.0.0/16, also inside of an IPv6 address, and fe80::/10. Cloud metadata services, which hand
    out credentials, are reached there.
    """
    parsed = _address(address)
    return parsed is not None and parsed.is_link_local


def _parsed(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _address(text: str) -> IPAddress | None:
    """Read a numeric address as `getaddrinfo` does; of an IPv4 address inside of an IPv6 one, the former."""
    text = text.strip("[]").partition("%")[0].rstrip(".")
    parsed = _parsed(text)
    if parsed is None:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except (OSError, ValueError):
            return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    if parsed in _NAT64:
        return ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed.ipv4_mapped or parsed.sixtofour or parsed

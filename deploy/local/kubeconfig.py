"""Writing kubeconfigs, and telling a throw-away cluster from one that matters."""

import base64
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from local.certificates import Identity
from local.errors import StackError
from local.files import write_private

CONTEXT = "hoop-local"
THROWAWAY_CONTEXTS = ("kind-", "k3d-")


def administrator(server: str, authority: Identity, admin: Identity) -> dict[str, Any]:
    """Return the kubeconfig of somebody who holds the certificate `admin` at our own control plane."""
    return _document(
        {"server": server, "certificate-authority-data": _encoded(authority.certificate)},
        {"client-certificate-data": _encoded(admin.certificate), "client-key-data": _encoded(admin.key)},
    )


def with_token(config: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return a kubeconfig for the cluster that `config` talks to, for the holder of a token."""
    return _document(config["clusters"][0]["cluster"], {"token": token})


def _document(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": dict(cluster)}],
        "users": [{"name": CONTEXT, "user": dict(user)}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def read(path: Path) -> dict[str, Any]:
    """Return a kubeconfig that `save` wrote."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def is_ours(config: Mapping[str, Any]) -> bool:
    """Say whether a kubeconfig is for a control plane that this package runs."""
    return bool(config["current-context"] == CONTEXT)


def save(path: Path, config: Mapping[str, Any]) -> bool:
    """Write a kubeconfig for its owner's eyes; return whether it differs from what stood there."""
    text = yaml.safe_dump(dict(config), sort_keys=False)
    if path.exists() and path.read_text() == text:
        return False
    write_private(path, text)
    return True


def chosen_by_user(environment: Mapping[str, str]) -> str | None:
    """Return the kubeconfig that the user names: `HOOP_LOCAL_KUBECONFIG` counts before `KUBECONFIG`."""
    return environment.get("HOOP_LOCAL_KUBECONFIG") or environment.get("KUBECONFIG") or None


def refuse_unless_throwaway(config: Mapping[str, Any], source: str) -> None:
    """Let pass only a cluster that is clearly made to be thrown away, and on this machine.

    Parameters
    ----------
    config
        A kubeconfig with one context, its current one.
    source
        Where it comes from, for the message.

    Raises
    ------
    StackError
        It may be a cluster that matters to somebody.
    """
    context, server = config["current-context"], config["clusters"][0]["cluster"]["server"]
    if (is_ours(config) or context.startswith(THROWAWAY_CONTEXTS)) and _on_this_machine(server):
        return
    raise StackError(
        f"{source} points to the context {context!r} at {server}, which is not clearly a throw-away cluster: "
        "only contexts named kind-* or k3d-* at an address of this machine are used. Nothing was touched.\n"
        "To use the control plane that comes with this checkout, unset KUBECONFIG and HOOP_LOCAL_KUBECONFIG; "
        "to use a kind or k3d cluster, make its context the current one."
    )


def _on_this_machine(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified  # k3d writes 0.0.0.0, which connects to this machine

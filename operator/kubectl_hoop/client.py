"""The person's way to the cluster: their kubeconfig, context and namespace, as kubectl takes them."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

from hoop_operator.cluster.api import Account, KubernetesApi, open_api
from hoop_operator.errors import ClusterUnavailable

DEFAULT_NAMESPACE = "default"
USER_AGENT = "kubectl-hoop"
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_NO_KUBECONFIG = (AttributeError, TypeError, LookupError, ValueError, RecursionError)
"""How the loader fails on what is no kubeconfig, or no text, wherever it first meets it."""

_config: Any = config
"""The official client's loaders, which carry no annotations."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster and namespace a command is about; what is None comes from the kubeconfig."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    impersonated: str | None = None
    impersonated_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answers to the person, and the namespace that names without one belong to."""

    api: KubernetesApi
    namespace: str


@asynccontextmanager
async def reach(target: Target) -> AsyncIterator[Cluster]:
    """Open the cluster that a person means.

    Without a kubeconfig it is the one that this runs in, as for kubectl.

    Raises
    ------
    ClusterUnavailable
        There is no such context, no kubeconfig, or its credentials cannot be had.
    """
    named = target.kubeconfig or os.environ.get("KUBECONFIG") or _config.KUBE_CONFIG_DEFAULT_LOCATION
    configuration = Configuration()
    try:
        kubeconfig, namespace = await _load(target, _existing(named), configuration)
        user = kubeconfig._user.value if kubeconfig and kubeconfig._user else {}  # noqa: SLF001 -- no other way to it
        headers = impersonation(target, user)
    except (ConfigException, OSError, yaml.YAMLError, *_NO_KUBECONFIG) as error:
        why = str(error) if isinstance(error, (ConfigException, OSError)) else "it is not a kubeconfig"
        raise ClusterUnavailable(
            f"no cluster to talk to: {named} cannot be used ({why}); set KUBECONFIG, --kubeconfig or --context"
        ) from None
    account = person(None if kubeconfig is None else kubeconfig.current_context["name"])
    opened = open_api(configuration, kubeconfig, user_agent=USER_AGENT, account=account, headers=headers)
    async with opened as api:
        yield Cluster(api, target.namespace or namespace or DEFAULT_NAMESPACE)


def person(context: str | None) -> Account:
    """Return who lacks a right, and whom to ask for it; `context` is None in a Pod."""
    return Account(
        "you" if context is None else f"you (context {context})",
        "ask an administrator of the cluster for it: the ClusterRoles view, edit and admin have what plans and "
        "resources take, hoop-approve what approving takes",
    )


def impersonation(target: Target, user: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headers by which requests are made as somebody else, as a kubeconfig's entry of a user or the person asks.

    What they mean and how they are spelt: Kubernetes documentation, "User impersonation". The official client knows
    nothing of them, and would act with the rights of whoever impersonates.

    Raises
    ------
    ConfigException
        There is no user to impersonate but groups, or something is no text.
    """
    name = target.impersonated or user.get("as")
    uid = user.get("as-uid")
    groups = list(target.impersonated_groups) or user.get("as-groups") or []
    extra = user.get("as-user-extra") or {}
    if not all(isinstance(values, list) for values in (groups, *extra.values())):
        raise ConfigException("as-groups and each value of as-user-extra have to be lists")
    headers = [
        *((header, value) for header, value in (("User", name), ("Uid", uid)) if value),
        *(("Group", group) for group in groups),
        *((f"Extra-{quote(key, safe='')}", value) for key, values in extra.items() for value in values),
    ]
    if headers and not name:
        raise ConfigException(
            "groups, a uid or extra values are to be impersonated without a user: as is missing"
        )
    if not all(isinstance(value, str) and value.isprintable() for _, value in headers):
        raise ConfigException("as, as-uid, as-groups and as-user-extra of a user have to be text in one line")
    return [(f"Impersonate-{header}", value) for header, value in headers]


async def _load(target: Target, files: list[Path], configuration: Configuration) -> tuple[Any, str | None]:
    """Fill in the configuration; return its loader, None in a Pod, and the namespace that it names."""
    if not (files or target.kubeconfig or target.context):
        _config.load_incluster_config(configuration)
        return None, await asyncio.to_thread(SERVICE_ACCOUNT_NAMESPACE.read_text)
    if not files:
        raise ConfigException("there is no such file")
    kubeconfig = await _config.load_kube_config(
        os.pathsep.join(map(str, files)),
        context=target.context or _current_context(files),
        client_configuration=configuration,
        persist_config=False,
    )
    return kubeconfig, kubeconfig.current_context["context"].get("namespace")


def _existing(paths: str) -> list[Path]:
    files = [Path(name).expanduser() for name in paths.split(os.pathsep) if name]
    return [path for path in files if path.exists()]


def _current_context(files: list[Path]) -> str | None:
    """The current context of several files: the first that names one decides, as for kubectl."""
    for path in files:
        if name := (yaml.safe_load(path.read_text()) or {}).get("current-context"):
            return str(name)
    return None

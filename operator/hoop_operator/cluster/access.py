"""Which namespaces the operator may look into."""

from collections.abc import Iterable
from contextlib import aclosing

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.watch import METADATA_LIST
from hoop_operator.errors import AccessDenied


async def denied_namespaces(api: KubernetesApi, namespaces: Iterable[str]) -> dict[str, str]:
    """Of some namespaces those in which what has to be watched cannot be listed, with what the API server says.

    A Role goes with its namespace, so that one which is deleted becomes one of these; without Roles it would be empty.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    denied = {}
    for namespace in namespaces:
        try:
            await _list_all(api, namespace)
        except AccessDenied as error:
            denied[namespace] = str(error)
    return denied


async def _list_all(api: KubernetesApi, namespace: str) -> None:
    for path in (
        paths.hoop_resources(namespace),
        paths.hoop_role_plans(namespace),
        paths.secrets(namespace),
        paths.config_maps(namespace),
    ):
        async with aclosing(api.pages(path, accept=METADATA_LIST)) as pages:
            await anext(pages)

"""Somebody who dies in the middle of what they do."""

from typing import Any

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterUnavailable


class DyingApi(KubernetesApi):
    """The API server, for somebody who dies after some writes."""

    def __init__(self, api: KubernetesApi, writes: int) -> None:
        super().__init__(api._client)
        self._left = writes

    async def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        if method != "GET" and not arguments.get("params"):
            if not self._left:
                raise ClusterUnavailable("dead")
            self._left -= 1
        return await super()._request(method, path, **arguments)

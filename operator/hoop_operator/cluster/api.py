"""A thin client of the Kubernetes API: plain dictionaries in and out, every failure a `ClusterError`.

Models are left out on purpose: building and validating them costs more than the rest of a write. What the
official client does well is used: finding the cluster, its authentication and the connection pool.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_PORT_ENV_NAME,
)
from multidict import CIMultiDict

from hoop_operator.errors import (
    AccessDenied,
    ClusterError,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from hoop_operator.metrics import KUBERNETES_REQUESTS

PAGE_SIZE = 500
REQUESTS_AT_ONCE = 32
REQUEST_SECONDS = 30.0
RETRY_AFTER_SECONDS_MAX = 10.0
WATCH_SECONDS = 240
WATCH_SILENCE_SECONDS = 75.0
"""How long a watch may bring nothing. An API server sends a bookmark every minute; without one the connection is dead,
although nobody may ever say so: a firewall that forgets it drops what comes."""

_config: Any = config
"""The official client's loaders, which carry no annotations."""

_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_MESSAGE_LENGTH = 1024

_CONFIDENTIAL = {"secrets", "hoopresources"}
"""Plurals of the kinds that hold credentials, which the API server may quote when it refuses one."""

_DENIED = re.compile(
    r'cannot \S+ resource "[^"]*" in API group "[^"]*"( in the namespace "[^"]*"| at the cluster scope)?'
)
"""What the API server says of a right that RBAC does not give; it holds names only."""

_FORBIDDEN = re.compile(
    r"exceeded quota: [\w.-]+, requested: [\w./=-]+"
    r'|admission webhook "[\w.-]+" denied the request'
    r"|ValidatingAdmissionPolicy '[\w.:-]+' with binding '[\w.:-]+' denied request"
)
"""What it says of who else refuses a request; of their words, which may quote it, there is nothing in this."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose rights a client acts with, in the words for a right that is missing."""

    name: str
    """Who it is, before "cannot list resource ..."."""
    remedy: str
    """What gives it the right."""


OPERATOR = Account(
    "the operator's account",
    "give it that right, as the chart and deploy/manifests/rbac.yaml of this version do",
)

CALLER = Account("the account of the bearer token", "it needs a Role that gives it that right")

_ERROR_BY_STATUS: dict[int, type[ClusterError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: ObjectNotFound,
    408: ClusterUnavailable,
    409: ObjectConflict,
    410: ClusterUnavailable,
    429: ClusterUnavailable,
}


class KubernetesApi:
    """The API server, as raw JSON by path; `paths` has the paths.

    When the API server or the way to it fails, every method raises the `ClusterError` that fits, and nothing
    else. At most `REQUESTS_AT_ONCE` requests are under way at a time, watches not counted; each may take
    `REQUEST_SECONDS`. A request that the server puts off (429) is sent once more at the time it asks for.
    """

    def __init__(
        self,
        client: ApiClient,
        account: Account = OPERATOR,
        headers: Sequence[tuple[str, str]] = (),
        token: str | None = None,
    ) -> None:
        self._client: Any = client
        self._account = account
        self._headers = headers
        self._token = token
        self._free = asyncio.Semaphore(REQUESTS_AT_ONCE)

    def with_token(self, token: str) -> "KubernetesApi":
        """The same API server, by the same connections, asked by whomever a bearer token stands for."""
        return KubernetesApi(self._client, CALLER, token=token)

    @property
    def host(self) -> str:
        """Where the API server is, as a URL."""
        host: str = self._client.configuration.host
        return host

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return the object or list at `path`; `params` are those of the query."""
        return await self._request("GET", path, params=params)

    async def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create an object in the collection at `path`; returns it as stored, or as a dry run would have it stored."""
        return await self._request("POST", path, params={"dryRun": "All"} if dry_run else None, body=body)

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge `body` into the object (RFC 7386); returns it as stored."""
        return await self._request("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def json_patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Apply `operations` to the object (RFC 6902); returns it as stored.

        A `test` that fails raises `ObjectRejected`.
        """
        return await self._request("PATCH", path, body=list(operations), content_type=_JSON_PATCH)

    async def delete(
        self, path: str, *, uid: str | None = None, resource_version: str | None = None
    ) -> dict[str, Any]:
        """Delete the object; raises `ObjectConflict` when it is not the one of that uid and version."""
        preconditions = {}
        if uid is not None:
            preconditions["uid"] = uid
        if resource_version is not None:
            preconditions["resourceVersion"] = resource_version
        return await self._request("DELETE", path, body={"preconditions": preconditions})

    async def pages(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = _JSON
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the list at `path` in pages of `PAGE_SIZE`, which together are one consistent view."""
        query = {**(params or {}), "limit": str(PAGE_SIZE)}
        while True:
            page = await self._request("GET", path, params=query, accept=accept)
            yield page
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def watch(
        self, path: str, resource_version: str, *, accept: str = _JSON, name: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of the collection at `path` after `resource_version`, bookmarks among them.

        With a `name`, only those of the object that has it.

        Ends by itself after `WATCH_SECONDS`. Too old a version raises `ClusterUnavailable` of status 410; silence
        for `WATCH_SILENCE_SECONDS` raises it of status 0.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            **({"fieldSelector": f"metadata.name={name}"} if name else {}),
        }
        limits = aiohttp.ClientTimeout(
            total=WATCH_SECONDS + REQUEST_SECONDS, connect=REQUEST_SECONDS, sock_read=WATCH_SILENCE_SECONDS
        )
        async with self._exchange("GET", path, params=query, accept=accept, limits=limits) as response:
            if response.status != 200:
                raise failure("GET", path, response.status, _object(await response.read()), self._account)
            async for line in response.content:
                event = _object(line)
                if event.get("type") == "ERROR":
                    raise failure(
                        "GET", path, event["object"].get("code", 500), event["object"], self._account
                    )
                if not event:
                    raise ClusterUnavailable(f"Kubernetes API: GET {path}: the watch broke off in an event")
                yield event

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> dict[str, Any]:
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        retried = False
        while True:
            exchange = self._exchange(
                method,
                path,
                limits=limits,
                params=params,
                accept=accept,
                content_type=content_type,
                body=body,
            )
            async with self._free, exchange as response:
                answer = _object(await response.read())
            if response.status == 429 and not retried:
                await asyncio.sleep(retry_after(response.headers))
                retried = True
                continue
            if response.status >= 300:
                raise failure(method, path, response.status, answer, self._account)
            if not answer:
                raise ClusterUnavailable(f"Kubernetes API: {method} {path}: the answer is not a JSON object")
            return answer

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        limits: aiohttp.ClientTimeout,
        params: Mapping[str, str] | None,
        accept: str,
        content_type: str = _JSON,
        body: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and yield the answer, whatever its status."""
        own = {"Accept": accept, "Content-Type": content_type, "User-Agent": self._client.user_agent}
        headers = CIMultiDict([*self._headers, *own.items()])
        url = self._client.configuration.host + path
        if params:
            url += "?" + urlencode(params)
        try:
            if self._token is None:
                await self._client.update_params_for_auth(headers, None, ["BearerToken"], path, method, body)
            else:
                headers["Authorization"] = f"Bearer {self._token}"
            answer = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=limits
            )
            async with answer.response as response:
                KUBERNETES_REQUESTS.labels(method, response.status).inc()
                yield response
        except (aiohttp.ClientError, OSError, ConfigException) as error:
            KUBERNETES_REQUESTS.labels(method, 0).inc()
            # Not chained: the client's exceptions carry the request, and with it the bearer token.
            raise ClusterUnavailable(
                f"Kubernetes API: {method} {path}: {type(error).__name__}: {error}".rstrip(": ")
            ) from None


@asynccontextmanager
async def connect() -> AsyncIterator[KubernetesApi]:
    """Open the client of the cluster that we run in, or else of the one that KUBECONFIG names.

    Raises `ClusterUnavailable` when there is neither.
    """
    configuration = Configuration()
    try:
        _config.load_incluster_config(configuration)
        kubeconfig = None
    except ConfigException:
        kubeconfig = await _load_kubeconfig(configuration)
    async with open_api(configuration, kubeconfig, user_agent="hoop-operator", account=OPERATOR) as api:
        yield api


@asynccontextmanager
async def open_api(
    configuration: Configuration,
    kubeconfig: Any,
    *,
    user_agent: str,
    account: Account,
    headers: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[KubernetesApi]:
    """Open the client that a configuration describes, and keep its credentials fresh.

    `kubeconfig` is the official client's loader that filled the configuration in; None where they need no renewal.
    `account` is who is told of a right that is missing. `headers` go with every request; a name may be there several
    times.

    Raises
    ------
    ClusterUnavailable
        What the configuration names as certificates or key is none.
    """
    # No limit here: KubernetesApi bounds its requests itself, and watches must not take their place.
    configuration.connection_pool_maxsize = 0
    try:
        opened = ApiClient(configuration)
    except (OSError, ValueError) as error:
        raise ClusterUnavailable(
            f"no cluster to talk to: the certificates or the key for {configuration.host} cannot be used ({error})"
        ) from None
    finally:
        # The client has read them by now. It would keep what a kubeconfig holds inline, a key among it, in files until
        # the process ends in an orderly way.
        _config.kube_config._cleanup_temp_files()  # noqa: SLF001 -- no other way to them
    renewal = None
    if kubeconfig is not None:
        renewal = asyncio.create_task(_config.refresh_token(kubeconfig, configuration))
    try:
        async with opened as client:
            client.user_agent = user_agent
            yield KubernetesApi(client, account, headers)
    finally:
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)


@asynccontextmanager
async def connect_without_credentials() -> AsyncIterator[KubernetesApi]:
    """Open a client of the same cluster as `connect`, with nothing to log in with: `with_token` says who asks.

    Of a Pod it takes the address and the cluster's authority, of a kubeconfig no more than the same.

    Raises `ClusterUnavailable` when there is neither.
    """
    configuration = Configuration()
    # What a proxy before the API server tells one caller to send is nothing for the next one.
    configuration.client_session_kwargs = {"cookie_jar": aiohttp.DummyCookieJar()}
    if not _reach_from_pod(configuration):
        loaded = Configuration()
        await _load_kubeconfig(loaded)
        for setting in ("host", "ssl_ca_cert", "ca_cert_data", "verify_ssl", "tls_server_name", "proxy"):
            setattr(configuration, setting, getattr(loaded, setting))
    async with open_api(configuration, None, user_agent="hoop-api", account=CALLER) as api:
        yield api


def failure(
    method: str, path: str, status: int, answer: Mapping[str, Any], account: Account = OPERATOR
) -> ClusterError:
    """Return the error that a refusal stands for; `answer` is the `Status` object that came with it, if any.

    The server's own words are repeated, save where they might quote a credential. `account` is who was refused.
    A 404 that names no object says nothing of whether there is one.
    """
    text = f"Kubernetes API: {method} {path}: {status} {answer.get('reason', '')}".rstrip()
    message = str(answer.get("message", ""))
    if status == 403 and (right := _DENIED.search(message)):
        text += f": {account.name} {right[0]}; {account.remedy}"
    elif message and not _CONFIDENTIAL.intersection(path.split("/")):
        text += f": {message[:_MESSAGE_LENGTH]}"
    elif forbidden := _FORBIDDEN.search(message):
        text += f": {forbidden[0]}"
    error = _ERROR_BY_STATUS.get(status, ClusterUnavailable if status >= 500 else ObjectRejected)
    details = answer.get("details") or {}
    if error is ObjectNotFound and not details.get("name"):
        error = ClusterUnavailable
        text += (
            "; nothing is served there: the CRDs are not installed, or the API server has only just started"
        )
    causes = details.get("causes") or ()
    return error(
        text,
        status=status,
        causes=[
            f"{cause.get('field', '')}: {cause.get('message', '')}"[:_MESSAGE_LENGTH] for cause in causes
        ],
    )


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how many seconds an answer of status 429 asks to wait, within reason."""
    asked = headers.get("Retry-After", "")
    return min(float(asked), RETRY_AFTER_SECONDS_MAX) if asked.isdecimal() else 1.0


def _object(answer: bytes) -> dict[str, Any]:
    """Return the object in an answer; an empty one when it is something else, such as a proxy's page."""
    try:
        decoded = json.loads(answer)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _reach_from_pod(configuration: Configuration) -> bool:
    """Set where the API server is and who vouches for it, as a Pod knows it; return whether this is one."""
    host, port = os.environ.get(SERVICE_HOST_ENV_NAME), os.environ.get(SERVICE_PORT_ENV_NAME)
    if not (host and port):
        return False
    if not Path(SERVICE_CERT_FILENAME).is_file():
        raise ClusterUnavailable(
            f"the cluster's authority is not in {SERVICE_CERT_FILENAME}: mount the ConfigMap kube-root-ca.crt there"
        )
    configuration.host = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    configuration.ssl_ca_cert = SERVICE_CERT_FILENAME
    return True


async def _load_kubeconfig(configuration: Configuration) -> Any:
    path = os.environ.get("KUBECONFIG") or _config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        return await _config.load_kube_config(path, client_configuration=configuration, persist_config=False)
    except ConfigException as error:
        raise ClusterUnavailable(
            f"no cluster to talk to: not in a pod, and {path} cannot be used ({error}); set KUBECONFIG"
        ) from error

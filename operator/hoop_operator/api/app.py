"""The routes of hoop's API, and the document that describes them."""

import logging
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Match, Route

from hoop_operator.api import applying, batches, deletion, health, plans, resources
from hoop_operator.api.middleware import Entrance, bearer_of
from hoop_operator.api.problems import UNAUTHENTICATED, Problem, in_lines, problem_of
from hoop_operator.api.resources import Session
from hoop_operator.api.wire import (
    ApplyBatch,
    ApplyRequest,
    ApplyResult,
    ApplyResults,
    Health,
    HealthRequest,
    HealthResults,
    Message,
    PlanBatch,
    PlanRequest,
    PlanResult,
    PlanResults,
    Resource,
    ResourcePage,
    ResourceReplacement,
    ResourceRequest,
)
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import AccessDenied, ClusterError
from hoop_operator.settings import Settings

PAGE_SIZE = 50

logger = logging.getLogger(__name__)

DESCRIPTION = """\
hoop.dev's API for resources and role plans, in front of the HoopResources and HoopRolePlans of one namespace. The
bearer token is one of the Kubernetes API, and its rights there are what decides.
"""

_MEANINGS = {
    400: "A field is missing or cannot be meant",
    401: "Access denied: no bearer token, or one that the Kubernetes API does not know",
    403: "Access denied: the Kubernetes API does not allow it, or it cannot be done to this resource",
    404: "There is no such thing",
    408: "The body did not arrive in time",
    409: "It exists already, or was changed meanwhile",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "It cannot be done to a resource like this, or a parameter is out of range",
    500: "Something that nobody foresaw; the log has it under the id of the request",
    503: "The Kubernetes API or the operator does not answer",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Message, "description": _MEANINGS[status]} for status in statuses}


def _session(request: Request) -> Session:
    token = bearer_of(request.headers)
    if token is None:
        raise UNAUTHENTICATED
    return Session(request.app.state.cluster.with_token(token), request.app.state.settings)


Caller = Annotated[Session, Depends(_session)]
Name = Annotated[str, Path(description="Name of a resource", min_length=1, max_length=128)]

routes = APIRouter(
    prefix="/api/resources",
    # For the document: `Caller` is what reads the token.
    dependencies=[Depends(HTTPBearer(auto_error=False, description="Token of the Kubernetes API"))],
    responses=_refusals(401, 403, 408, 413, 415, 422, 500, 503),
)


@routes.post("", status_code=201, responses=_refusals(400, 409), tags=["Resources"])
async def create_resource(caller: Caller, request: ResourceRequest) -> Resource:
    """Make a resource."""
    return await resources.create(caller, request)


@routes.get("", tags=["Resources"])
async def list_resources(
    caller: Caller,
    page: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    page_size: Annotated[int | None, Query(ge=1, le=100)] = None,
) -> list[Resource] | ResourcePage:
    """List resources by name; with page or page_size, one page of them."""
    if page is None and page_size is None:
        return [resources.shown(body) for body in await resources.bodies(caller)]
    return await resources.page_of(caller, page or 1, page_size or PAGE_SIZE)


@routes.post("/health", responses=_refusals(400), tags=["Resources"])
async def health_of_resources(caller: Caller, request: HealthRequest) -> HealthResults:
    """Tell the health of several resources."""
    return HealthResults(results=await health.health_of(caller, request.names))


@routes.get("/{name}", responses=_refusals(404), tags=["Resources"])
async def get_resource(caller: Caller, name: Name) -> Resource:
    """Read a resource."""
    return resources.shown(await resources.find(caller, name))


@routes.put("/{name}", responses=_refusals(400, 404, 409), tags=["Resources"])
async def replace_resource(caller: Caller, name: Name, change: ResourceReplacement) -> Resource:
    """Replace the credentials of a resource."""
    return await resources.replace(caller, name, change)


@routes.delete("/{name}", status_code=204, responses=_refusals(404), tags=["Resources"])
async def delete_resource(caller: Caller, name: Name) -> Response:
    """Delete a resource."""
    await deletion.remove(caller, name)
    return Response(status_code=204)


@routes.get("/{name}/health", responses=_refusals(404), tags=["Resources"])
async def health_of_resource(caller: Caller, name: Name) -> Health:
    """Tell the health of a resource."""
    return await health.health(caller, name)


@routes.post("/plan", responses=_refusals(400), tags=["Plans"])
async def plan_several(caller: Caller, request: PlanBatch) -> PlanResults:
    """Plan several roles at the same time."""
    return PlanResults(results=await batches.plan_all(caller, request.items))


@routes.post("/apply", responses=_refusals(400), tags=["Plans"])
async def apply_several(caller: Caller, request: ApplyBatch) -> ApplyResults:
    """Apply several plans at the same time."""
    return ApplyResults(results=await batches.apply_all(caller, request.items))


@routes.post("/{name}/plan", responses=_refusals(400, 404, 409), tags=["Plans"])
async def plan_role(caller: Caller, name: Name, request: PlanRequest) -> PlanResult:
    """Plan a role on a resource."""
    return await plans.plan(caller, name, request)


@routes.post("/{name}/apply", responses=_refusals(400, 404, 409), tags=["Plans"])
async def apply_plan(caller: Caller, name: Name, request: ApplyRequest) -> ApplyResult:
    """Apply a plan."""
    return await applying.apply(caller, name, request)


def application(settings: Settings, cluster: KubernetesApi) -> FastAPI:
    """Return the API as an ASGI application in front of a cluster, which is asked with the callers' tokens."""
    app = FastAPI(
        title="Hoop operator",
        description=DESCRIPTION,
        version=version("hoop-operator"),
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        # The address that it would lead to is what a client said in Host, and not always by TLS.
        redirect_slashes=False,
    )
    app.state.settings, app.state.cluster = settings, cluster
    app.add_middleware(Entrance, introduce=lambda token: _introduce(cluster, token))
    _tell_what_is_wrong(app)
    app.include_router(routes)
    _serve_probes(app, cluster)
    return app


async def _introduce(cluster: KubernetesApi, token: str) -> None:
    """Raise what is wrong if the Kubernetes API does not know whose token it is."""
    try:
        await cluster.with_token(token).get("/version")
    except AccessDenied as error:
        # Who is known, and may not know the version, may do other things.
        if error.status == 401:
            raise


def _serve_probes(app: FastAPI, cluster: KubernetesApi) -> None:
    @app.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        try:
            await cluster.get("/version")
        except AccessDenied:
            pass  # it answers, which is all that is asked
        except ClusterError as error:
            return PlainTextResponse(f"{error}\n", status_code=503)
        return PlainTextResponse("ok\n")


def _tell_what_is_wrong(app: FastAPI) -> None:
    def answer(status: int, message: str) -> JSONResponse:
        if status >= 500:
            logger.warning("%s", message)
        return JSONResponse(Message(message=message).model_dump(), status)

    @app.exception_handler(Problem)
    async def problem(_: Request, raised: Problem) -> Response:
        return answer(raised.status, raised.message)

    @app.exception_handler(ClusterError)
    async def cluster_error(_: Request, error: ClusterError) -> Response:
        raised = problem_of(error)
        return answer(raised.status, raised.message)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        errors = error.errors()
        in_query = any(entry["loc"][0] == "query" for entry in errors)
        return answer(422 if in_query else 400, in_lines(errors, without="body"))

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, raised: HTTPException) -> Response:
        response = answer(raised.status_code, str(raised.detail))
        response.headers.update(raised.headers or {})
        if raised.status_code == 405:
            # Of itself it names the methods of the first route of that path only.
            routes = [route for route in app.routes if isinstance(route, Route)]
            found = [route.methods or () for route in routes if route.matches(request.scope)[0] != Match.NONE]
            response.headers["Allow"] = ", ".join(sorted(set().union(*found)))
        return response

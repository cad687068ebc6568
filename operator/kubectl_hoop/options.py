"""What the commands share: options, exit codes, names that a shell completes, and how things are printed."""

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.crd.common import GROUP
from hoop_operator.errors import HoopError
from hoop_operator.reconcile.script import one_line
from kubectl_hoop.client import Target, reach
from kubectl_hoop.objects import PLAN_KIND, RESOURCE_KIND, list_plans, list_resources
from kubectl_hoop.signals import heard_at_once

FINE, WRONG, USAGE, NO_CLUSTER = range(4)
"""Exit codes of every command."""
INTERRUPTED = 130

KINDS = {
    **dict.fromkeys(("hrp", "hooproleplan", "hooproleplans"), PLAN_KIND),
    **dict.fromkeys(("hres", "hoopresource", "hoopresources"), RESOURCE_KIND),
}
"""Kinds by what kubectl calls them."""

COMPLETION_SECONDS = 3
UNWRAPPED = 1_000_000
"""Columns of a line that nothing ends."""

Style = str
T = TypeVar("T")


def console() -> Console:
    """Standard output: coloured on a terminal, plain in a pipe or where NO_COLOR is set, and there never wrapped."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else UNWRAPPED)


def say(*parts: str | tuple[str, Style]) -> None:
    """Print a line to standard output; what a terminal would obey in names and messages is escaped."""
    # Soft, so that SQL can be copied from a terminal.
    console().print(line(*parts), soft_wrap=True)


def line(*parts: str | tuple[str, Style]) -> Text:
    """One line of text, each part with its style or none."""
    return Text.assemble(
        *(one_line(part) if isinstance(part, str) else (one_line(part[0]), part[1]) for part in parts)
    )


def note(text: str) -> None:
    """Tell something beside the output, on standard error."""
    sys.stderr.write(f"{one_line(text)}\n")


def about_target(command: Callable[..., T]) -> Callable[..., T]:
    """Options that say which cluster and namespace a command is about, given to it as a `Target`."""

    @click.option("-n", "--namespace", help="Namespace. Default: that of the context.")
    @click.option("--context", help="Context of the kubeconfig. Default: the current one.")
    @click.option("--kubeconfig", type=click.Path(), help="The kubeconfig. Default: as for kubectl.")
    @click.option("--as", "impersonated", metavar="USER", help="Act as another user, as for kubectl.")
    @click.option(
        "--as-group",
        "impersonated_groups",
        multiple=True,
        metavar="GROUP",
        help="With --as: the groups of the user.",
    )
    @functools.wraps(command)
    def run(
        kubeconfig: str | None,
        context: str | None,
        namespace: str | None,
        impersonated: str | None,
        impersonated_groups: tuple[str, ...],
        **rest: Any,
    ) -> T:
        return command(Target(kubeconfig, context, namespace, impersonated, impersonated_groups), **rest)

    return run


def on_cluster(command: Callable[..., Awaitable[int]]) -> Callable[..., int]:
    """Make a command of a coroutine function: it gets the cluster first, and returns the exit code."""

    @about_target
    @functools.wraps(command)
    def run(target: Target, **rest: Any) -> int:
        async def on_it() -> int:
            with heard_at_once(asyncio.get_running_loop()):
                async with reach(target) as cluster:
                    return await command(cluster, **rest)

        return asyncio.run(on_it())

    return run


def by_another_way(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options to reach the server from where the person sits."""
    port = click.option("--port", type=click.IntRange(1, 65535), help="Port to connect to instead.")
    host = click.option("--host", help="Host to connect to instead, such as localhost for a forwarded port.")
    return host(port(command))


def as_instance(command: Callable[..., Any]) -> Callable[..., Any]:
    """Option to say who the operator is."""
    return click.option(
        "--instance",
        envvar="HOOP_INSTANCE",
        default="default",
        show_default=True,
        help="HOOP_INSTANCE of the operator, which the comments on roles name.",
    )(command)


def plan_name(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument NAME of a HoopRolePlan."""
    return click.argument("name", shell_complete=complete_plans, callback=of_kind(PLAN_KIND))(command)


def resource_name(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument RESOURCE, the name of a HoopResource."""
    callback = of_kind(RESOURCE_KIND)
    return click.argument("resource", shell_complete=complete_resources, callback=callback)(command)


def of_kind(*wanted: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Make a callback that takes a name also as `kubectl get -o name` has it, and no name of another kind."""

    def bare(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        prefix, slash, name = (value or "").partition("/")
        kind = KINDS.get(prefix.removesuffix(f".{GROUP}").lower()) if slash else None
        if kind is not None and kind not in wanted:
            raise click.BadParameter(f"{value} is a {kind}, and this is about a {' or a '.join(wanted)}")
        return name if kind else value

    return bare


def complete_plans(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of HoopRolePlans that begin so."""
    return _names(context, incomplete, list_plans)


def complete_resources(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of HoopResources that begin so."""
    return _names(context, incomplete, list_resources)


def complete_both(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of either kind."""
    return [
        *complete_resources(context, parameter, incomplete),
        *complete_plans(context, parameter, incomplete),
    ]


def _names(
    context: click.Context,
    incomplete: str,
    listing: Callable[[KubernetesApi, str | None], Awaitable[Any]],
) -> list[str]:
    given = context.params.get
    target = Target(
        given("kubeconfig"),
        given("context"),
        given("namespace"),
        given("impersonated"),
        given("impersonated_groups") or (),
    )

    async def ask() -> list[str]:
        async with asyncio.timeout(COMPLETION_SECONDS), reach(target) as cluster:
            return [found.key.name for found in await listing(cluster.api, cluster.namespace)]

    try:
        names = asyncio.run(ask())
    except (HoopError, TimeoutError):
        return []  # a shell that waits for a word has no place for an error
    return [name for name in names if name.startswith(incomplete)]

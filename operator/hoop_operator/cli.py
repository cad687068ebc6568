"""The command line: `hoop-operator run`, `hoop-operator plan` and `hoop-operator serve`."""

import argparse
import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from hoop_operator.health import PortUnavailable
from hoop_operator.logs import configure_logging
from hoop_operator.postgres.libpq import forget_libpq_environment
from hoop_operator.postgres.tls_files import remove_leftover_tls_files
from hoop_operator.reconcile.dry_run import preview_plans
from hoop_operator.reconcile.manifests import read_manifests
from hoop_operator.reconcile.script import one_line, psql_script
from hoop_operator.settings import Settings

STANDARD_INPUT = "-"

IN_SYNC, NOT_PLANNED, CHANGES = range(3)
"""Exit codes of `plan`."""

PLAN_DESCRIPTION = """\
Show what the operator would do about HoopRolePlans, as SQL for psql, and do nothing. No cluster is asked: the plans,
their HoopResources, and the Secrets and ConfigMaps with the credentials come from the files. The servers are read,
never written. Settings are read from HOOP_* environment variables, as by "run".
"""

PLAN_EPILOG = """\
exit codes:
  0  nothing to do
  1  something could not be planned or applied, or the command was used wrongly
  2  there are changes to make

example:
  helm template shop ./chart | hoop-operator plan -f admin-secret.yaml -f - -n shop
"""


class _Parser(argparse.ArgumentParser):
    """A parser that ends a wrong usage with an exit code of its own."""

    usage_code = 2

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong, and how it is used."""
        self.print_usage(sys.stderr)
        self.exit(self.usage_code, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return its exit code.

    `run` and `serve` have 0 on success, 1 where they cannot listen on their port, and 2 for wrong usage or settings;
    `serve` has 1 where what it needs is not installed, too. `plan` has 0 where
    there is nothing to do, 2 where there are changes to make, and 1 for everything else.
    """
    parser = _Parser(
        prog="hoop-operator", description="PostgreSQL roles for hoop.dev, declared as Kubernetes objects."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('hoop-operator')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the operator until it is told to stop",
        description="Run the operator in a cluster, or against the one that KUBECONFIG names. Settings are read from "
        "HOOP_* environment variables.",
    )
    run.set_defaults(parser=run)
    plan = commands.add_parser(
        "plan",
        help="show what would be done about the plans in some files, without a cluster",
        description=PLAN_DESCRIPTION,
        epilog=PLAN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.usage_code = NOT_PLANNED
    plan.set_defaults(parser=plan)
    plan.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="YAML with one object or several; - is standard input; may be given more than once",
    )
    plan.add_argument(
        "-n",
        "--namespace",
        default="default",
        help="namespace of objects that name none (default: %(default)s)",
    )
    serve = commands.add_parser(
        "serve",
        help="serve hoop's HTTP API in front of the objects of one namespace",
        description="Serve hoop's HTTP API in front of the HoopResources and HoopRolePlans of one namespace, in a "
        "cluster or of the one that KUBECONFIG names. Settings are read from HOOP_* environment variables.",
    )
    serve.set_defaults(parser=serve)
    # Not parse_args, which would have the outer parser complain of what the subcommand does not know.
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    forget_libpq_environment()
    settings = _settings()
    if settings is None:
        return int(options.parser.usage_code)
    if options.command == "plan":
        configure_logging(settings.log_level, "text")
        return _plan(settings, options.filename, options.namespace)
    configure_logging(settings.log_level, settings.log_format)
    return _serve(settings) if options.command == "serve" else _run(settings)


def _settings() -> Settings | None:
    """The settings of the environment; None where they are wrong, which is told then."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            field, *place = map(str, problem["loc"])
            where = f" (entry {'.'.join(place)})" if place else ""
            sys.stderr.write(f"HOOP_{field.upper()}{where}: {problem['msg']}\n")
    return None


def _plan(settings: Settings, filenames: list[str], namespace: str) -> int:
    texts: dict[str, str] = {}
    for filename in filenames:
        origin = "standard input" if filename == STANDARD_INPUT else filename
        try:
            content = sys.stdin.buffer.read() if filename == STANDARD_INPUT else Path(filename).read_bytes()
            texts[origin] = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            sys.stderr.write(f"{one_line(origin)}: {why}\n")
            return NOT_PLANNED
    manifests = read_manifests(texts, namespace)
    if manifests.skipped:
        skipped = ", ".join(f"{kind} ({count})" for kind, count in sorted(manifests.skipped.items()))
        sys.stderr.write(f"skipped: {one_line(skipped)}\n")
    if not manifests.plans and not manifests.problems:
        manifests.problems.append("no HoopRolePlan in the files, so there is nothing to plan")
    if manifests.problems:
        sys.stderr.writelines(f"{one_line(problem)}\n" for problem in manifests.problems)
        return NOT_PLANNED
    previews = asyncio.run(preview_plans(manifests, settings))
    sys.stdout.write(psql_script(previews))
    if any(preview.problems for preview in previews):
        return NOT_PLANNED
    return CHANGES if any(preview.statements for preview in previews) else IN_SYNC


def _run(settings: Settings) -> int:
    # Imported here, because kopf takes most of the time that it takes to start.
    from hoop_operator.handlers.process import leave, operate

    # What it has to say below a warning is every object as a whole.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    remove_leftover_tls_files()
    try:
        leave(asyncio.run(operate(settings)))
    except PortUnavailable as failure:
        sys.stderr.write(f"{failure}\n")
        return 1


def _serve(settings: Settings) -> int:
    try:
        # Imported here, because not every installation has what it needs.
        from hoop_operator.api.server import serve
    except ModuleNotFoundError as error:
        sys.stderr.write(f'{error.name} is not installed; run: pip install "hoop-operator[api]"\n')
        return 1
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())

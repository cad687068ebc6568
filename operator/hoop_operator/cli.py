"""The command line: `hoop-operator run`."""

import argparse
import logging
import sys

import kopf
from pydantic import ValidationError
from pydantic_settings import SettingsError

from hoop_operator.handlers.registry import Handlers
from hoop_operator.postgres.session import forget_libpq_environment
from hoop_operator.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0 on success, 2 for wrong usage or settings."""
    parser = argparse.ArgumentParser(
        prog="hoop-operator", description="PostgreSQL roles for hoop.dev, declared as Kubernetes objects."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run",
        help="run the operator until it is told to stop",
        description="Run the operator in a cluster, or against the one that KUBECONFIG names. Settings are read from "
        "HOOP_* environment variables.",
    )
    parser.parse_args(arguments)
    return _run()


def _run() -> int:
    forget_libpq_environment()
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            field, *place = map(str, problem["loc"])
            where = f" (entry {'.'.join(place)})" if place else ""
            sys.stderr.write(f"HOOP_{field.upper()}{where}: {problem['msg']}\n")
        return 2
    except SettingsError as error:
        # A list that is not JSON never gets as far as validation; the field is named in the message alone.
        field = str(error).partition('"')[2].partition('"')[0]
        sys.stderr.write(f'HOOP_{field.upper()}: must be a JSON list, such as ["first", "second"]\n')
        return 2
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # What these two have to say below a warning is every object as a whole, and every look at the liveness endpoint.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    kopf.run(
        registry=Handlers(settings).registry(),
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        standalone=True,
        liveness_endpoint=f"http://0.0.0.0:{settings.liveness_port}/livez"
        if settings.liveness_port
        else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

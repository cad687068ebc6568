"""HoopResources for what a gateway of hoop.dev has, the credentials in a file of their own."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click

from kubectl_hoop.client import DEFAULT_NAMESPACE
from kubectl_hoop.gateway import from_gateway
from kubectl_hoop.objects import as_yaml
from kubectl_hoop.options import FINE, WRONG, note


@click.command(
    epilog="Example: kubectl hoop import-hoop gateway.json -n shop --secrets secrets.yaml > resources.yaml",
    short_help="Write HoopResources for what a hoop gateway has.",
)
@click.argument("file", type=click.File("rb"))
@click.option(
    "-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Where the objects are to be."
)
@click.option(
    "--secrets",
    type=click.Path(path_type=Path),
    help="The file to make for the Secrets. It must not be there yet; nobody else may read it.",
)
def import_hoop(file: BinaryIO, namespace: str, secrets: Path | None) -> int:
    """Write a HoopResource for each resource of a hoop gateway.

    FILE is what the gateway answers to GET /api/resources; - reads standard input. What may go into Git is the output;
    the Secrets with the credentials are written to a file apart from it. The cluster is not asked.
    """
    try:
        answer = json.load(file)
    except (RecursionError, ValueError):
        answer = None  # of which the next says what it is not
    try:
        found = from_gateway(answer, namespace)
    except ValueError as error:
        raise click.UsageError(f"FILE: {error}") from None
    if found.secrets:
        if secrets is None:
            raise click.UsageError(
                "it holds credentials: name a file for their Secrets with --secrets, outside of what goes into Git"
            )
        _write_confidential(secrets, found.secrets)
    click.echo(_documents(found.resources), nl=False)
    for remark in (*found.remarks, *found.left_out):
        note(remark)
    return WRONG if found.left_out else FINE


def _write_confidential(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.UsageError(
            f"--secrets: {path} cannot be made: {error.strerror}; name another file"
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_documents(objects))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _documents(objects: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"---\n{as_yaml(body)}" for body in objects)

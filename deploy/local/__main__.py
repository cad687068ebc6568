"""`python -m local up` and `python -m local down`."""

import argparse
import os
import sys
import time
from pathlib import Path

from local import kubeconfig, postgresql
from local.errors import StackError
from local.progress import duration, say
from local.stack import CHECKOUT, Stack

DIRECTORY = CHECKOUT / ".local"


def up() -> None:
    """Start the stack of this checkout, as far as it does not run."""
    began = time.monotonic()
    version = os.environ.get("PG") or postgresql.DEFAULT_VERSION
    postgresql.programs(version)  # a version that is not to be had is told before minutes go into a build
    stack = Stack(DIRECTORY)
    with stack.lock():
        source = kubeconfig.chosen_by_user(os.environ)
        if source is None or stack.is_own(source):
            stack.start_control_plane()
        else:
            stack.use_cluster(source)
        stack.stop_postgres(keep=version)
        server = stack.start_postgres(version)
        stack.apply_manifests()
        environment = stack.write_environment(server)
        stack.start_operator()
    shown = environment.relative_to(Path.cwd()) if environment.is_relative_to(Path.cwd()) else environment
    say(f"The stack is up after {duration(time.monotonic() - began)}; its logs are {shown.parent}/*.log")
    say(f"  . {shown}    # then kubectl, kubectl hoop, hoop-operator and psql work as administrators")
    say("  make down    # stops it")


def down() -> None:
    """Stop the stack of this checkout; its data stays."""
    stack = Stack(DIRECTORY)
    with stack.lock():
        stack.stop()
    say(f"The stack is down; its data stays in {DIRECTORY}, delete that for a fresh start.")


def main() -> int:
    """Run a command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("command", choices=("up", "down"))
    command = parser.parse_args().command
    try:
        {"up": up, "down": down}[command]()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `make down` stops what was started", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

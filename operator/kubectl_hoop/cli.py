"""The command line: the commands in one group, and what ends each of them when something is wrong."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import click
from pydantic import ValidationError

from hoop_operator.errors import AccessDenied, ClusterUnavailable, HoopError
from hoop_operator.postgres.libpq import forget_libpq_environment
from kubectl_hoop.actions import approve, reconcile, resume, rotate, suspend
from kubectl_hoop.completion import VARIABLE, complete_for_kubectl, completion
from kubectl_hoop.doctor import doctor
from kubectl_hoop.import_hoop import import_hoop
from kubectl_hoop.importing import import_
from kubectl_hoop.options import FINE, INTERRUPTED, NO_CLUSTER, WRONG, note
from kubectl_hoop.plan import plan
from kubectl_hoop.psql import psql
from kubectl_hoop.signals import leaving_no_files
from kubectl_hoop.status import status

COMPLETE = "__complete"
"""The first word by which kubectl asks for completion."""

EPILOG = """\
\b
Exit codes:
  0    fine
  1    something is not ready, or could not be done
  2    the command was used wrongly
  3    the cluster cannot be reached, or does not allow it

Example: kubectl hoop status -n shop
"""


class _InOrder(click.Group):
    """A group that lists its commands as they were added: first those that only look."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("hoop-operator"), prog_name="kubectl-hoop", message="%(prog)s %(version)s")
def hoop() -> None:
    """PostgreSQL roles that are declared as HoopRolePlans: look at them, decide about them, use them."""


for _command in (
    *(status, plan, doctor, approve, rotate, reconcile, suspend, resume, psql),
    *(import_, import_hoop, completion),
):
    hoop.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    forget_libpq_environment()
    try:
        with leaving_no_files():
            if list(arguments[:1]) == [COMPLETE]:
                return complete_for_kubectl(hoop, list(arguments[1:]))
            code = hoop.main(
                arguments, prog_name="kubectl hoop", complete_var=VARIABLE, standalone_mode=False
            )
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (AccessDenied, ClusterUnavailable) as error:
        note(str(error))
        return NO_CLUSTER
    except HoopError as error:
        note(str(error))
        return WRONG
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        for problem in problems:
            note(f"{error.title}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}")
        return WRONG
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        _discard_output()
        return FINE
    except OSError as error:
        note(f"the output, or a file that is needed for a while, cannot be written: {error}")
        _discard_output()
        return WRONG
    return code if isinstance(code, int) else FINE


def _discard_output() -> None:
    """Let go what could not be written: the interpreter would complain of it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

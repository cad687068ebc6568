"""`kubectl hoop`: what people do with HoopResources and HoopRolePlans, from where they sit, with their own rights."""

import sys

MISSING = "kubectl-hoop: {} is not installed; run: pip install 'hoop-operator[plugin]'\n"


def main() -> int:
    """Run the plugin and return its exit code."""
    # The image of the operator carries this package without what it needs beyond the operator.
    try:
        from kubectl_hoop.cli import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(MISSING.format(error.name))
        return 1
    return run(sys.argv[1:])


def complete() -> int:
    """Complete a command line for kubectl, which calls `kubectl_complete-hoop` with the words so far."""
    sys.argv[1:1] = ["__complete"]
    return main()

"""What is answered where something is wrong: a status and `{"message": …}`, as hoop does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from hoop_operator.errors import (
    AccessDenied,
    ClusterError,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)


class Problem(Exception):
    """A request ends with a status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


UNAUTHENTICATED = Problem(401, "access denied")


def in_lines(errors: Sequence[Mapping[str, Any]], *, without: str = "") -> str:
    """What is wrong with fields, one line each, no value quoted; `without` is a first part that goes without saying."""
    lines = []
    for error in errors:
        if error["type"] == "json_invalid":
            lines.append(f"the body is not JSON, from character {error['loc'][-1]} on")
            continue
        place = ".".join(str(part) for part in error["loc"] if part != without)
        message = error["msg"].removeprefix("Value error, ")
        if not place and error["type"] in {"missing", "model_type", "model_attributes_type"}:
            message = "the body must be a JSON object, and is " + (
                "empty" if error["type"] == "missing" else "none"
            )
        # What is wrong with an entry begins with that entry.
        between = "" if message.startswith("[") else ": "
        lines.append(f"{place}{between}{message}" if place else message)
    return "\n".join(lines)


@contextmanager
def refusing_invalid() -> Iterator[None]:
    """Answer 400 where what the body builds from a request is nothing that the kinds can hold."""
    try:
        yield
    except ValidationError as error:
        raise Problem(400, in_lines(error.errors(include_url=False, include_input=False))) from None


def problem_of(error: ClusterError) -> Problem:
    """What it means for the caller that the Kubernetes API failed us."""
    # What a request calls a field is in the object's spec.
    said = "\n".join(cause.removeprefix("spec.") for cause in dict.fromkeys(error.causes)) or str(error)
    match error:
        case AccessDenied(status=401):
            return UNAUTHENTICATED
        case AccessDenied():
            return Problem(403, f"access denied: {error}")
        case ObjectNotFound():
            return Problem(404, str(error))
        case ObjectConflict():
            return Problem(409, said)
        case ObjectRejected():
            return Problem(400, said)
        case _:
            return Problem(503, str(error))

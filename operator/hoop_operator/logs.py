"""How the log is written, and what each of its lines is about.

What a piece of work is about is said once, around it; every line that is logged meanwhile carries it, also one of a
layer that knows nothing of objects.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

KOPF_REFERENCE = "k8s_ref"
"""The attribute in which kopf's lines carry the object that they are about."""
KOPF_ATTRIBUTES = (KOPF_REFERENCE, "k8s_skip", "settings")
UVICORN_COLOURED = "color_message"
"""The attribute in which uvicorn's lines carry their message once more, for terminals."""

_about: ContextVar[Mapping[str, Any]] = ContextVar("about")


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Have every line that is logged in the body carry fields, and no others; those that are None are left out.

    Tasks that are begun in the body carry them on, unless they say themselves what they are about.
    """
    token = _about.set({name: value for name, value in fields.items() if value is not None})
    try:
        yield
    finally:
        _about.reset(token)


def object_reference(kind: str, namespace: str, name: str) -> dict[str, str]:
    """An object as a field of a line."""
    return {"kind": kind, "namespace": namespace, "name": name}


def configure_logging(level: str, form: Literal["json", "text"]) -> None:
    """Log to standard error, from a level on; `form` as in `log_handler`."""
    logging.basicConfig(level=level, handlers=[log_handler(form)])
    logging.captureWarnings(True)


def log_handler(form: Literal["json", "text"]) -> logging.StreamHandler[TextIO]:
    """Return what writes the log to standard error.

    Parameters
    ----------
    form
        `json`: one JSON object a line, with all fields; `text`: for people, without the fields.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_attach)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, *KOPF_ATTRIBUTES, UVICORN_COLOURED],
            timestamp="time",
        )
        if form == "json"
        else logging.Formatter(TEXT)
    )
    return handler


def _attach(record: logging.LogRecord) -> bool:
    """Put the fields of the work at hand on a line, unless it has its own."""
    fields = dict(_about.get({}))
    if isinstance(reference := getattr(record, KOPF_REFERENCE, None), Mapping):
        fields["object"] = {name: reference.get(name) for name in ("kind", "namespace", "name")}
    for name, value in fields.items():
        if name not in record.__dict__:
            record.__dict__[name] = value
    return True

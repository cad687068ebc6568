"""What a line of the log carries."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import kopf
import pytest
from kopf._core.actions.loggers import ObjectLogger

from hoop_operator.logs import about, log_handler, object_reference

PLAN = object_reference("HoopRolePlan", "shop", "ro")
RESOURCE = object_reference("HoopResource", "shop", "db")

logger = logging.getLogger("hoop_operator.test")


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written() -> Iterator[Callable[[Literal["json", "text"]], io.StringIO]]:
    """What is written of all that is logged, in a form."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = []

    def write(form: Literal["json", "text"]) -> io.StringIO:
        handler, stream = log_handler(form), io.StringIO()
        handler.setStream(stream)
        handlers.append(handler)
        root.addHandler(handler)
        logger.setLevel(logging.INFO)
        return stream

    yield write
    for handler in handlers:
        root.removeHandler(handler)


@pytest.fixture
def lines(written: Callable[[Literal["json", "text"]], io.StringIO]) -> Lines:
    stream = written("json")
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_time_level_and_logger(
    lines: Lines,
) -> None:
    logger.warning("two\nlines of %s", "text")
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "WARNING", "logger": "hoop_operator.test", "message": "two\nlines of text"}


def test_an_exception_is_part_of_its_line(lines: Lines) -> None:
    logger.error("failed", exc_info=ValueError("nobody foresaw this"))
    (line,) = lines()
    assert line["exception"].endswith("ValueError: nobody foresaw this")


async def test_every_line_of_a_piece_of_work_says_what_it_is_about(
    lines: Lines,
) -> None:
    async def step(sid: str) -> None:
        with about(object=PLAN, sid=sid, server=None):
            await asyncio.sleep(0)
            logger.info("step", extra={"reason": "Applied"})

    with about(object=RESOURCE, server="db:5432"):
        await asyncio.gather(step("1"), step("2"))
        logger.info("turn")
    logger.info("after")
    told = [{name: line.get(name) for name in ("object", "sid", "server", "reason")} for line in lines()]
    assert told == [
        {"object": PLAN, "sid": "1", "server": None, "reason": "Applied"},
        {"object": PLAN, "sid": "2", "server": None, "reason": "Applied"},
        {"object": RESOURCE, "sid": None, "server": "db:5432", "reason": None},
        {"object": None, "sid": None, "server": None, "reason": None},
    ]


def test_a_line_of_kopf_keeps_its_own_object(lines: Lines) -> None:
    body = kopf.Body({"kind": "HoopRolePlan", "metadata": {"namespace": "shop", "name": "ro", "uid": "u"}})
    with about(object=RESOURCE):
        ObjectLogger(body=body, settings=kopf.OperatorSettings()).warning("handler failed")
    (line,) = lines()
    assert line["object"] == PLAN
    assert line.keys() == {"level", "logger", "message", "object", "time"}


def test_text_is_for_people(written: Callable[[Literal["json", "text"]], io.StringIO]) -> None:
    stream = written("text")
    with about(object=PLAN, sid="1"):
        logger.info("Plan shop/ro is applied")
    assert stream.getvalue().endswith(" INFO hoop_operator.test: Plan shop/ro is applied\n")

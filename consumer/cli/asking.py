"""Asking the writer over NATS, and what its answers mean for a command."""

import getpass
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast

from consumer.broker import Broker, Reply
from consumer.cli.common import WRONG_ENVIRONMENT, WRONG_USAGE, fail
from consumer.connections import broker_config
from consumer.election import new_instance_name
from consumer.errors import NoResponder
from consumer.settings import Settings

BAD_REQUEST = 400
ANSWER_S = 90.0
"""Longer than the service takes for any answer."""


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Broker]:
    """Connects to NATS under a name of its own, and sets nothing up there."""
    instance = new_instance_name("c")
    broker = await Broker.connect(broker_config(settings, instance))
    try:
        yield broker
    finally:
        await broker.close()


async def ask(broker: Broker, subject: str, document: Mapping[str, object]) -> Reply:
    """Asks the writer.

    Raises:
        typer.Exit: there is none; that was said.
    """
    try:
        return await ask_again(broker, subject, document)
    except NoResponder:
        fail(
            f"no writer answers on {subject}",
            WRONG_ENVIRONMENT,
            hint="is a `lotus-lake run` up and the writer (its /readyz says so), and LOTUS_NAMESPACE the same?",
        )


async def ask_again(broker: Broker, subject: str, document: Mapping[str, object]) -> Reply:
    """Asks the writer what may also be answered by nobody.

    Raises:
        NoResponder: there is no writer right now.
    """
    payload = json.dumps({name: value for name, value in document.items() if value is not None}).encode()
    return await broker.ask(subject, payload, timeout_s=ANSWER_S)


def document_of(reply: Reply) -> dict[str, object]:
    """Returns what an answer says.

    Raises:
        typer.Exit: it is a refusal, which was shown: 2 if the request was wrong, 3 if something does not answer.
    """
    document = cast("dict[str, object]", json.loads(reply.body or b"{}"))
    if reply.error is not None:
        error = cast("dict[str, object]", document.get("error") or {})
        message, hint = str(error.get("message", reply.error)), error.get("hint")
        if reply.code == BAD_REQUEST:
            hint = "--help lists the options; they have the names of the fields"
        status = WRONG_USAGE if 400 <= reply.code < 500 else WRONG_ENVIRONMENT
        fail(message, status, hint=str(hint) if hint else None)
    return document


def whoever() -> str:
    """The login name of whoever runs this command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown (no login name)"


def plain(text: object) -> str:
    """Fits a text from outside for a terminal: what does not print is escaped."""
    shown = str(text)
    return shown if shown.isprintable() else ascii(shown)[1:-1]

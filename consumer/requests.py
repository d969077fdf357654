"""Requests from outside: one small JSON object, read strictly. Whatever is sent, only BadRequest is raised."""

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from typing import Any, NoReturn, cast

from consumer.errors import BadRequest

REQUEST_BYTES_MAX = 16 * 1024
PERSON_BYTES_MAX = 128
REASON_BYTES_MAX = 512
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SHOWN = 60


class Fields:
    """The fields of a request, each read once by its kind; a field that nobody knows is refused at once."""

    def __init__(self, document: Mapping[str, object], hint: str) -> None:
        self._document = document
        self._hint = hint

    def has(self, *names: str) -> tuple[str, ...]:
        """Returns which of these fields are there and not null."""
        return tuple(name for name in names if self._document.get(name) is not None)

    def text(self, name: str, *, limit: int) -> str | None:
        """Returns a text of 1 to `limit` bytes of UTF-8 without NUL, or None if it is not there."""
        value = self._document.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(name, f"expected a text, found {shown(value)}")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            self.refuse(name, "is not valid UTF-8")
        if not 1 <= length <= limit:
            self.refuse(name, f"expected 1 to {limit:,} bytes of UTF-8, found {length:,}")
        if "\0" in value:
            self.refuse(name, "holds a NUL")
        return value

    def line(self, name: str, *, limit: int) -> str | None:
        """Returns a text of one line, without control characters."""
        value = self.text(name, limit=limit)
        if value is not None and any(unicodedata.category(each) in ("Cc", "Zl", "Zp") for each in value):
            self.refuse(name, "expected one line, without control characters")
        return value

    def flag(self, name: str) -> bool:
        """Returns a flag; false if it is not there."""
        value = self._document.get(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"expected true or false, found {shown(value)}")
        return bool(value)

    def whole(self, name: str, *, least: int, most: int, default: int) -> int:
        """Returns a whole number within bounds."""
        value = self._document.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"expected a whole number from {least} to {most:,}, found {shown(value)}")
        return value

    def day(self, name: str) -> date | None:
        """Returns a day that is written as YYYY-MM-DD."""
        text = self.text(name, limit=32)
        if text is None:
            return None
        found = day_of(text)
        if found is None:
            self.refuse(name, f"expected a day as YYYY-MM-DD, found {shown(text)}")
        return found

    def refuse(self, name: str, message: str) -> NoReturn:
        """Refuses the request for a field.

        Raises:
            BadRequest: always.
        """
        raise BadRequest(f"{name}: {message}", hint=self._hint)


def read_fields(payload: bytes, *, schema: str, names: tuple[str, ...], hint: str) -> Fields:
    """Reads a request.

    Args:
        payload: as it came.
        schema: what the field "schema" says, if it is there.
        names: all other fields that may be there.
        hint: an example of a right request.

    Raises:
        BadRequest: it is no JSON object of these fields, or too large.
    """
    if len(payload) > REQUEST_BYTES_MAX:
        message = f"a request of {len(payload):,} bytes, expected at most {REQUEST_BYTES_MAX:,}"
        raise BadRequest(message, hint=hint, code=413)
    document = _document(payload, hint)
    fields = Fields(document, hint)
    if (said := document.get("schema", schema)) != schema:
        fields.refuse("schema", f'expected "{schema}", found {shown(said)}')
    unknown = sorted(set(document) - {*names, "schema"})
    if unknown:
        raise BadRequest(f"unknown field {shown(unknown[0])}, expected {', '.join(names)}", hint=hint)
    return fields


def day_of(text: str) -> date | None:
    """Reads YYYY-MM-DD; None if it is not so written, or there is no such day."""
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None


def shown(value: object) -> str:
    """Quotes a value in at most some 60 characters of plain ASCII, so that a message stays one line."""
    match value:
        case None:
            return "null"
        case dict():
            return "an object"
        case list():
            return "an array"
        case bool() | float():
            text = str(value)
        case int():
            text = str(value) if abs(value) < 10**18 else "a number beyond 10^18"
        case str():
            text = ascii(value[: _SHOWN * 2])
        case _:
            return "something"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _document(payload: bytes, hint: str) -> dict[str, object]:
    if not payload.strip():
        raise BadRequest("an empty request, expected a JSON object", hint=hint)
    try:
        value: object = json.loads(payload.decode(), parse_constant=_no_constant, object_pairs_hook=_pairs)
    except UnicodeDecodeError as error:
        raise BadRequest(f"a request that is not UTF-8 at byte {error.start:,}", hint=hint) from None
    except _Refused as error:
        raise BadRequest(str(error), hint=hint) from None
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"a request that is not JSON{where}", hint=hint) from None
    if not isinstance(value, dict):
        raise BadRequest(f"expected a JSON object, found {shown(value)}", hint=hint)
    return cast("dict[str, object]", value)


class _Refused(ValueError):
    """JSON that Python reads and we don't."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _Refused("a field stands twice in one object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON")

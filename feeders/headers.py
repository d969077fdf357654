"""The headers of SQL files: ``-- name: value`` lines at the top, for tables and models alike.

The head of a file is all its lines before the first SQL. There::

    -- key: order_id                              a header: one word, a colon, a value
    -- map: staging.stg_shopify__order_refunds:
    --     SELECT order_id FROM changed           four or more spaces continue the header above
    -- One row per order.                         other comments are prose, and ignored

A word with a colon is always a header, so a misspelt name is an error and never becomes prose; prose that
needs a colon has another word before it. A known header below the first line of SQL is an error too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from feeders.project import SqlFileError

_HEADER = re.compile(r"--\s{0,3}([^\s:]+)\s*:(.*)")
_CONTINUATION = re.compile(r"--\s{4,}(\S.*)")


@dataclass(frozen=True, kw_only=True)
class HeaderRule:
    """What one header may be.

    `choices` are the only values (any, if empty), `repeated` allows more than one, `required` needs one.
    """

    choices: tuple[str, ...] = ()
    repeated: bool = False
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Header:
    """One header: its value without surrounding space, and the line where it starts (from 1)."""

    name: str
    value: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Headers:
    """The headers of one file, in its order."""

    path: Path
    found: tuple[Header, ...]

    def all(self, name: str) -> tuple[Header, ...]:
        """Return the headers of that name."""
        return tuple(header for header in self.found if header.name == name)

    def first(self, name: str) -> Header | None:
        """Return the first header of that name, or None."""
        return next(iter(self.all(name)), None)

    def value(self, name: str, *, default: str) -> str:
        """Return the value of the header of that name, or the default."""
        header = self.first(name)
        return header.value if header else default


def parse_headers(text: str, *, path: Path, rules: Mapping[str, HeaderRule]) -> Headers:
    """Parse the headers of a file's text by the rules of its kind.

    Raises:
        SqlFileError: an unknown name, a bad or missing value, a header twice or below the SQL.
    """
    found: list[Header] = []
    in_head = True
    continues = False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line and not line.startswith("--"):
            in_head = False
        header = _HEADER.fullmatch(line)
        if not in_head:
            if header and header[1] in rules:
                what = f"header {header[1]!r} stands below the first line of SQL, where it does nothing"
                raise SqlFileError(path, what, line=number, hint="move it to the top of the file")
            continue
        continuation = _CONTINUATION.fullmatch(line)
        if header:
            found.append(Header(name=header[1], value=header[2].strip(), line=number))
            continues = True
        elif continuation and continues:
            value = f"{found[-1].value} {continuation[1]}".strip()
            found[-1] = replace(found[-1], value=value)
        else:
            continues = False
    headers = Headers(path=path, found=tuple(found))
    _check(headers, rules)
    return headers


def _check(headers: Headers, rules: Mapping[str, HeaderRule]) -> None:
    known = "known headers: " + ", ".join(sorted(rules))
    for header in headers.found:
        rule = rules.get(header.name)
        if rule is None:
            what = f"unknown header {header.name!r}"
        elif not header.value:
            what = f"header {header.name!r} has no value"
        elif rule.choices and header.value not in rule.choices:
            what = f"header {header.name!r} is {header.value!r}, not one of {', '.join(rule.choices)}"
        elif not rule.repeated and header is not headers.first(header.name):
            what = f"header {header.name!r} stands here a second time"
        else:
            continue
        raise SqlFileError(headers.path, what, line=header.line, hint=known)
    for name, rule in rules.items():
        if rule.required and headers.first(name) is None:
            raise SqlFileError(headers.path, f"header {name!r} is missing", line=1, hint=known)

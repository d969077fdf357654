"""DuckDB's types as values: the text that DESCRIBE prints, parsed and printed again.

The parser takes DuckDB's own spelling (``TIMESTAMP WITH TIME ZONE``, not ``timestamptz``) and resolves no
alias: text that a person wrote goes through DuckDB first (``lake.describe_create_table``). What it doesn't
take apart (``DECIMAL(18,2)``, ``ENUM('a', 'b')``, ``INTEGER[3]``) it keeps verbatim as one `Scalar`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn, TypeAlias, assert_never


class TypeSyntaxError(ValueError):
    """The text is no type that DuckDB's DESCRIBE prints."""


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """A type without parts that we name: its canonical text, arguments included."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a STRUCT. `quoted` only remembers the spelling, so that printing gives the same text."""

    name: str
    type: "DuckType"
    quoted: bool = field(default=True, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Struct:
    """STRUCT, its fields in order. Equality is exact; compare `fold` of two names to ignore case."""

    fields: tuple[Field, ...]

    def get(self, name: str) -> Field | None:
        """Return the field of that name, ignoring case as DuckDB does."""
        wanted = fold(name)
        return next((each for each in self.fields if fold(each.name) == wanted), None)


@dataclass(frozen=True, kw_only=True)
class List:
    """LIST of one element type, printed ``element[]``."""

    element: "DuckType"


@dataclass(frozen=True, kw_only=True)
class Map:
    """MAP, printed ``MAP(key, value)``."""

    key: "DuckType"
    value: "DuckType"


DuckType: TypeAlias = Scalar | Struct | List | Map

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|[^\s()\[\],"']+|[()\[\],])""")
_WORDS_OF_ONE_TYPE = frozenset({"WITH", "TIME", "ZONE", "PRECISION"})


def quote_identifier(name: str) -> str:
    """Quote one identifier for SQL: the only place that does."""
    if "\0" in name:
        message = f"an identifier holds a NUL character: {name!r}"
        raise ValueError(message)
    return '"' + name.replace('"', '""') + '"'


def quote_path(names: Iterable[str]) -> str:
    """Quote a dotted path: a table with its schema, a field with its column."""
    return ".".join(quote_identifier(name) for name in names)


def fold(name: str) -> str:
    """Fold a column or field name as DuckDB compares them: ASCII letters only."""
    return "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in name)


@lru_cache(maxsize=4096)
def parse_type(text: str) -> DuckType:
    """Parse the text of a type as DESCRIBE prints it.

    Raises:
        TypeSyntaxError: the text is not such a type.
    """
    parser = _Parser(text)
    parsed = parser.type()
    if (rest := parser.peek()) is not None:
        parser.fail(f"{rest!r} after the end of the type")
    return parsed


def format_type(duck_type: DuckType) -> str:
    """Print a type; what `parse_type` parsed comes out as the same text."""
    match duck_type:
        case Scalar():
            return duck_type.name
        case Struct():
            fields = ", ".join(f"{_format_name(each)} {format_type(each.type)}" for each in duck_type.fields)
            return f"STRUCT({fields})"
        case List():
            return f"{format_type(duck_type.element)}[]"
        case Map():
            return f"MAP({format_type(duck_type.key)}, {format_type(duck_type.value)})"
        case _:
            assert_never(duck_type)


def _format_name(each: Field) -> str:
    if each.quoted or not _PLAIN_NAME.fullmatch(each.name):
        return quote_identifier(each.name)
    return each.name


class _Parser:
    """Recursive descent over the tokens of one type text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        self._ends: list[int] = []
        self._next = 0
        position = 0
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                self.fail(f"an open quotation mark at character {position}")
            self._tokens.append(match[1])
            self._ends.append(match.end())
            position = match.end()

    def fail(self, what: str) -> NoReturn:
        message = f"not a DuckDB type as DESCRIBE prints it: {self._text!r}: {what}"
        raise TypeSyntaxError(message)

    def peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            self.fail("it ends too early")
        self._next += 1
        return token

    def expect(self, wanted: str) -> None:
        token = self.take()
        if token != wanted:
            self.fail(f"{wanted!r} expected, {token!r} found")

    def type(self) -> DuckType:
        parsed = self._base()
        while self.peek() == "[":
            self.take()
            size = self.take()
            if size == "]":
                parsed = List(element=parsed)
                continue
            if not size.isdecimal():
                self.fail(f"']' or the size of an array expected, {size!r} found")
            self.expect("]")
            parsed = Scalar(name=f"{format_type(parsed)}[{size}]")
        return parsed

    def _base(self) -> DuckType:
        word = self.take()
        if word in "()[]," or word.startswith("'"):
            self.fail(f"the name of a type expected, {word!r} found")
        if word.startswith('"'):
            return Scalar(name=word)
        name = word.upper()
        if self.peek() == "(":
            if name == "STRUCT":
                return self._struct()
            if name == "MAP":
                return self._map()
            name += self._arguments()
        while (more := self.peek()) is not None and more.upper() in _WORDS_OF_ONE_TYPE:
            name += f" {self.take().upper()}"
        return Scalar(name=name)

    def _struct(self) -> Struct:
        self.expect("(")
        fields = [self._field()]
        while (word := self.take()) == ",":
            fields.append(self._field())
        if word != ")":
            self.fail(f"',' or ')' expected, {word!r} found")
        names = [fold(each.name) for each in fields]
        if len(set(names)) != len(names):
            self.fail("two fields of a STRUCT have the same name")
        return Struct(fields=tuple(fields))

    def _field(self) -> Field:
        word = self.take()
        if word in "()[]," or word.startswith("'"):
            self.fail(f"the name of a field expected, {word!r} found")
        quoted = word.startswith('"')
        name = word[1:-1].replace('""', '"') if quoted else word
        return Field(name=name, type=self.type(), quoted=quoted)

    def _map(self) -> Map:
        self.expect("(")
        key = self.type()
        self.expect(",")
        value = self.type()
        self.expect(")")
        return Map(key=key, value=value)

    def _arguments(self) -> str:
        """Take a parenthesis with all that it holds, and return it as it is written."""
        self.expect("(")
        start = self._ends[self._next - 1] - 1
        depth = 1
        while depth:
            depth += {"(": 1, ")": -1}.get(self.take(), 0)
        return self._text[start : self._ends[self._next - 1]]

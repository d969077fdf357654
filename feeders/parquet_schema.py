"""A Parquet footer, read by a small Thrift parser of our own.

pyarrow's Python API shows leaves and not groups, so it can't tell which of the six ways of writing a list a
file has; and it follows a footer's nesting and counts before anyone can look at them. This parser holds every
count against a limit, and raises `FooterSyntaxError` for whatever it does not understand. Layouts:
https://github.com/apache/parquet-format (parquet.thrift; LogicalTypes.md has the rules of lists).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from feeders.parquet_limits import LimitName
from feeders.parquet_types import (
    FileField,
    FileList,
    FileOther,
    FileScalar,
    FileSchema,
    FileStruct,
    FileType,
    Leaf,
)
from feeders.row_groups import RowGroup, parse_rest, parse_row_groups
from feeders.thrift import FooterSyntaxError, ThriftReader


@dataclass(frozen=True, kw_only=True)
class ParsedFooter:
    """What the footer says. All numbers are claims."""

    schema: FileSchema
    rows: int
    row_groups: tuple[RowGroup, ...]
    created_by: str


class FooterLimitError(ValueError):
    """The footer claims more than a limit allows."""

    def __init__(self, what: str, found: int, allowed: int, limit: LimitName) -> None:
        super().__init__(f"{what}: {found} found, at most {allowed} allowed")
        self.what = what
        self.found = found
        self.allowed = allowed
        self.limit: LimitName = limit


_PHYSICAL = ("boolean", "int32", "int64", "int96", "float", "double", "binary", "fixed")
_CONVERTED: Mapping[int, str] = {
    0: "string",
    1: "map",
    2: "map",
    3: "list",
    4: "enum",
    5: "decimal",
    6: "date",
    7: "time",
    8: "time",
    9: "timestamp_ms_converted",
    10: "timestamp_us_converted",
    11: "uint8",
    12: "uint16",
    13: "uint32",
    14: "uint64",
    15: "int8",
    16: "int16",
    17: "int32",
    18: "int64",
    19: "json",
    20: "bson",
    21: "interval",
}
_LOGICAL: Mapping[int, str] = {
    1: "string",
    2: "map",
    3: "list",
    4: "enum",
    5: "decimal",
    6: "date",
    7: "time",
    11: "unknown",
    12: "json",
    13: "bson",
    14: "uuid",
    15: "float16",
}
_UNITS: Mapping[int, str] = {1: "ms", 2: "us", 3: "ns"}
_HELD_BY: Mapping[str, frozenset[str]] = {
    "binary": frozenset({"string", "enum", "json", "bson", "decimal"}),
    "fixed": frozenset({"uuid", "decimal", "float16", "interval"}),
    "int32": frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32", "date", "time", "decimal"}),
    "int64": frozenset({"int64", "uint64", "time", "decimal"}),
}
"""Which annotations are sound on which physical type; timestamps on int64 are told by their prefix."""


@dataclass(kw_only=True, slots=True)
class _Element:
    """One SchemaElement, as the footer lists them: depth first."""

    name: str = ""
    physical: int | None = None
    repetition: int = 0
    children: int | None = None
    converted: int | None = None
    scale: int = 0
    precision: int = 0
    logical: str | None = None


class _SchemaCache:
    """Schemas that were parsed, found again by the bytes that they were parsed from.

    Files of a stream repeat a few schemas; comparing bytes is a hundred times quicker than parsing. A footer
    that starts with the same bytes parses to the same schema, because the first of them is the count.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: tuple[tuple[bytes, FileSchema], ...] = ()

    def find(self, data: bytes, at: int) -> tuple[bytes, FileSchema] | None:
        return next((each for each in self._known if data.startswith(each[0], at)), None)

    def add(self, text: bytes, schema: FileSchema) -> None:
        # One assignment: other threads see the old tuple or the new one.
        self._known = ((text, schema), *self._known)[: self._size]


_cache = _SchemaCache(256)


def parse_footer(data: bytes, *, max_columns: int, max_depth: int, max_row_groups: int) -> ParsedFooter:
    """Parse a footer.

    Raises:
        FooterSyntaxError: the bytes are no footer.
        FooterLimitError: a count or the nesting is over its limit.
    """
    reader = ThriftReader(data)
    schema: FileSchema | None = None
    rows = row_groups = None
    row_group_kind = last = 0
    while rows is None or row_groups is None:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                break
            case (2, 9):
                schema = _schema(reader, max_columns, max_depth)
            case (3, 6):
                rows = reader.signed()
            case (4, 9):
                row_group_kind, row_groups = reader.list_header()
                break
            case _:
                reader.skip(kind)
    if schema is None or rows is None or row_groups is None:
        message = "it has no schema, no number of rows or no row groups"
        raise FooterSyntaxError(message)
    # The cache knows nothing of limits, which may differ from call to call.
    _hold("columns", schema.leaves, max_columns, "max_columns")
    _hold("levels of nesting", _depth(schema.root) - 1, max_depth, "max_depth")
    _hold("row groups", row_groups, max_row_groups, "max_row_groups")
    groups = parse_row_groups(reader, row_group_kind, row_groups, schema.leaves)
    return ParsedFooter(schema=schema, rows=rows, row_groups=groups, created_by=parse_rest(reader, 4))


def claimed_rows(data: bytes) -> int:
    """Read a footer's number of rows, and pass over all the rest of it.

    Raises:
        FooterSyntaxError: the bytes are no footer.
    """
    reader = ThriftReader(data)
    last = 0
    while True:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                message = "it has no number of rows"
                raise FooterSyntaxError(message)
            case (3, 6):
                return reader.signed()
            case _:
                reader.skip(kind)


def _hold(what: str, found: int, allowed: int, limit: LimitName) -> None:
    if found > allowed:
        raise FooterLimitError(what, found, allowed, limit)


def _depth(file_type: FileType) -> int:
    match file_type:
        case FileStruct():
            return 1 + max((_depth(each.type) for each in file_type.fields), default=0)
        case FileList():
            return 1 + _depth(file_type.element)
        case _:
            return 1


def _schema(reader: ThriftReader, max_columns: int, max_depth: int) -> FileSchema:
    start = reader.at
    if (known := _cache.find(reader.data, start)) is not None:
        reader.at += len(known[0])
        return known[1]
    kind, size = reader.list_header()
    if kind != 12 or size < 1:
        message = f"its schema is a list of {size} values of kind {kind}"
        raise FooterSyntaxError(message)
    # Each level of a list takes up to two groups more than it has columns.
    _hold("schema elements (four to a column)", size, max_columns * 4 + 1, "max_columns")
    elements = [_element(reader) for _ in range(size)]
    text = reader.data[start : reader.at]
    builder = _Builder(elements, max_depth * 3 + 1)
    root = builder.root()
    schema = FileSchema(
        fingerprint=hashlib.blake2b(text, digest_size=16).hexdigest(),
        root=root,
        columns=tuple(builder.leaves),
        elements=size,
    )
    _cache.add(text, schema)
    return schema


def _element(reader: ThriftReader) -> _Element:
    element = _Element()
    last = 0
    while True:
        kind, last = reader.field(last)
        match (last, kind):
            case (_, 0):
                return element
            case (1, 5):
                element.physical = reader.signed()
            case (3, 5):
                element.repetition = reader.signed()
            case (4, 8):
                element.name = _name(reader.binary())
            case (5, 5):
                element.children = reader.signed()
            case (6, 5):
                element.converted = reader.signed()
            case (7, 5):
                element.scale = reader.signed()
            case (8, 5):
                element.precision = reader.signed()
            case (10, 12):
                element.logical = _logical(reader)
            case _:
                reader.skip(kind)


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        message = "the name of a column is not UTF-8"
        raise FooterSyntaxError(message) from None
    if "\0" in name:
        message = "the name of a column holds a NUL character"
        raise FooterSyntaxError(message)
    return name


def _logical(reader: ThriftReader) -> str:
    """Read the LogicalType union: our word for it, with its arguments where they decide."""
    kind, member = reader.field(0)
    if kind != 12:
        message = f"a logical type of kind {kind} at byte {reader.at}"
        raise FooterSyntaxError(message)
    values: dict[int, int] = {}
    last = 0
    while True:
        kind, last = reader.field(last)
        if kind == 0:
            break
        if kind in {1, 2}:
            values[last] = int(kind == 1)
        elif kind == 3:
            values[last] = reader.byte()
        elif kind == 12:
            # The unit of a TIME or TIMESTAMP is a union of empty structs: its member's id is all it says.
            inner, values[last] = reader.field(0)
            if inner:
                reader.skip(inner)
                reader.skip(12)
        else:
            reader.skip(kind)
    reader.skip(12)
    if member == 8:
        adjusted = "utc" if values.get(1) else "local"
        return f"timestamp_{_UNITS.get(values.get(2, 0), 'other')}_{adjusted}"
    if member == 10:
        return f"{'int' if values.get(2) else 'uint'}{values.get(1)}"
    return _LOGICAL.get(member, f"logical_{member}")


class _Builder:
    """Makes the tree of types out of the flat list of elements, and numbers its leaves."""

    def __init__(self, elements: list[_Element], max_depth: int) -> None:
        self._elements = elements
        self._next = 0
        self._max_depth = max_depth
        self._path: list[str] = []
        self._repetition = self._definition = 0
        self.leaves: list[Leaf] = []

    def root(self) -> FileStruct:
        element = self._take()
        if element.children is None:
            message = "its schema has no root"
            raise FooterSyntaxError(message)
        root = FileStruct(fields=self._fields(element, 1))
        if self._next != len(self._elements):
            message = f"its schema has {len(self._elements) - self._next} elements more than its tree"
            raise FooterSyntaxError(message)
        return root

    def _take(self) -> _Element:
        if self._next >= len(self._elements):
            message = "its schema ends in the middle of a group"
            raise FooterSyntaxError(message)
        self._next += 1
        return self._elements[self._next - 1]

    def _fields(self, group: _Element, depth: int) -> tuple[FileField, ...]:
        _hold("nesting of the schema", depth, self._max_depth, "max_depth")
        return tuple(self._field(depth)[0] for _ in range(group.children or 0))

    def _field(self, depth: int) -> tuple[FileField, _Element]:
        element = self._take()
        above = self._repetition, self._definition
        self._repetition += element.repetition == 2
        self._definition += element.repetition in {1, 2}
        self._path.append(element.name)
        file_type = self._type(element, depth)
        self._path.pop()
        self._repetition, self._definition = above
        if element.repetition == 2:
            file_type = FileList(element=file_type, form="bare")
        return FileField(name=element.name, type=file_type), element

    def _type(self, element: _Element, depth: int) -> FileType:
        if element.children is None:
            return self._leaf(element)
        kind = element.logical or _CONVERTED.get(element.converted if element.converted is not None else -1)
        if kind == "list":
            fields = [self._field(depth + 1) for _ in range(element.children)]
            return _list(element, fields)
        fields = self._fields(element, depth + 1)
        if kind is not None or not fields:
            return FileOther(kind=kind or "empty")
        return FileStruct(fields=fields)

    def _leaf(self, element: _Element) -> FileScalar:
        index = len(self.leaves)
        self.leaves.append(
            Leaf(
                path=tuple(self._path),
                physical=element.physical,
                repetition=self._repetition,
                definition=self._definition,
            )
        )
        if element.physical is None or not 0 <= element.physical < len(_PHYSICAL):
            return FileScalar(kind="other", index=index)
        physical = _PHYSICAL[element.physical]
        kind = element.logical
        if kind is None and element.converted is not None:
            kind = _CONVERTED.get(element.converted, "other")
        if kind is None:
            return FileScalar(kind=physical, index=index)
        sound = kind in _HELD_BY.get(physical, ()) or (physical == "int64" and kind.startswith("timestamp_"))
        if not sound:
            return FileScalar(kind=f"{physical}_{kind}", index=index)
        arguments = (element.precision, element.scale) if kind == "decimal" else ()
        return FileScalar(kind=kind, index=index, arguments=arguments)


def _list(element: _Element, fields: list[tuple[FileField, _Element]]) -> FileType:
    """Tell the form of a LIST group, by the backward-compatibility rules of the format."""
    match fields:
        case [(FileField(type=FileList(element=FileScalar() as leaf)), repeated)] if repeated.repetition == 2:
            return FileList(element=leaf, form="two_level")
        case [(FileField(type=FileList(element=FileStruct() as struct)), repeated)] if (
            repeated.repetition == 2
        ):
            return _list_of_groups(element.name, repeated.name, struct)
        case _:
            return FileOther(kind="odd_list")


def _list_of_groups(name: str, repeated_name: str, struct: FileStruct) -> FileType:
    only, *others = (each.type for each in struct.fields)
    if others:
        return FileList(element=struct, form="two_level")
    if repeated_name in {"array", f"{name}_tuple"}:
        return FileList(element=struct, form="one_field")
    if isinstance(only, FileList) and only.form == "bare":
        return FileOther(kind="odd_list")
    return FileList(element=only, form="three_level")

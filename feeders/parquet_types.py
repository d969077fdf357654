"""A Parquet file's schema as values: what the footer says, before anyone interprets it for a table."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

ListForm = Literal["three_level", "two_level", "one_field", "bare"]
"""How a list is written. one_field: a 2-level list whose element is a struct of one field."""


@dataclass(frozen=True, kw_only=True)
class FileScalar:
    """A leaf: `kind` is our word for its physical and logical type, `index` its place among the leaves."""

    kind: str
    index: int
    arguments: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}{list(self.arguments)}" if self.arguments else self.kind


@dataclass(frozen=True, kw_only=True)
class FileField:
    """A column, or one field of a struct."""

    name: str
    type: "FileType"


@dataclass(frozen=True, kw_only=True)
class FileStruct:
    """A group without annotation."""

    fields: tuple[FileField, ...]

    def __str__(self) -> str:
        return "struct(" + ", ".join(f"{each.name!r} {each.type}" for each in self.fields) + ")"


@dataclass(frozen=True, kw_only=True)
class FileList:
    """A list, in any of its forms."""

    element: "FileType"
    form: ListForm

    def __str__(self) -> str:
        return f"{self.form}({self.element})"


@dataclass(frozen=True, kw_only=True)
class FileOther:
    """A group that we don't take apart: a MAP, a VARIANT, a LIST that breaks its own rules."""

    kind: str

    def __str__(self) -> str:
        return self.kind


class Leaf(NamedTuple):
    """What a reader of pages knows of a column: its path, its physical type's number, its levels."""

    path: tuple[str, ...]
    physical: int | None
    repetition: int
    definition: int


FileType: TypeAlias = FileScalar | FileStruct | FileList | FileOther


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """A file's schema. Equal and hashed by `fingerprint`, the digest of its bytes in the footer."""

    fingerprint: str
    root: FileStruct = field(compare=False)
    columns: tuple[Leaf, ...] = field(compare=False, repr=False)
    elements: int = field(compare=False)

    @property
    def leaves(self) -> int:
        """How many columns there are, nested ones included."""
        return len(self.columns)

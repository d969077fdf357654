"""What goes wrong at the lake.

Errors are named by the caller's next move and classified here, once:

    LakeError
    ├── LakeUnavailable   a dependency does not answer: wait, open the lake again, try again
    ├── LakeConflict      another transaction touched the same tables: a new transaction, which reads all again
    ├── LakeFenced        another process is the writer now: stop writing, this term is over
    ├── LakeMisconfigured wrong version, credential or option: refuse to start
    └── StatementFailed   the statement itself failed: the data or the SQL is at fault, not a server

Error texts of DuckDB quote row values, so the classes above carry DuckDB's error type and a text from which
quoted values are stripped (`without_values`).
"""

from typing import Literal


class LakeError(Exception):
    """Base of all that goes wrong at the lake."""


class LakeUnavailable(LakeError):
    """PostgreSQL or S3 does not answer; `dependency` says which one, or "lake": the catalog is not what it was."""

    def __init__(self, dependency: Literal["postgresql", "s3", "disk", "lake"], message: str) -> None:
        super().__init__(f"{dependency}{'' if dependency == 'lake' else ' does not answer'}: {message}")
        self.dependency = dependency


class LakeConflict(LakeError):
    """Another transaction committed a change to a table that this one touched."""


class LakeFenced(LakeError):
    """The lake's epoch is not ours: another process has taken over as the writer."""


class LakeMisconfigured(LakeError):
    """The lake can't be used as configured; `hint` says what mends it."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class StatementFailed(LakeError):
    """A statement failed for its own reasons. `kind` is DuckDB's error type, e.g. ConversionException."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind

    @property
    def invalidates_instance(self) -> bool:
        """Says whether DuckDB refuses everything after it, so that the lake must be opened again."""
        return self.kind in ("FatalException", "InternalException")

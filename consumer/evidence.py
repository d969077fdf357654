"""What a dead letter says of a file: names, types, counts and positions, never a row's value (D15)."""

from collections.abc import Mapping

from feeders.drift import file_schema_text, table_schema_text
from feeders.errors import StatementFailed
from feeders.parquet import BadFile
from feeders.parquet_types import FileSchema
from feeders.streams import Stream

Detail = Mapping[str, str | int | None]


def of_bad_file(error: BadFile) -> Detail:
    """What is wrong with a file, which error of its readers said so, and the setting of a limit that it is over."""
    limit = error.evidence.get("limit")
    return {
        "error": str(error),
        "error_class": type(error.__cause__ or error.__context__ or error).__name__,
        **error.evidence,
        **({"setting": f"LOTUS_FILE_{str(limit).upper()}"} if limit is not None else {}),
    }


def of_statement(error: StatementFailed) -> Detail:
    """What DuckDB says, without what may be values."""
    return {"error": str(error), "error_class": error.kind}


def of_schemas(stream: Stream, schema: FileSchema) -> Detail:
    """The columns that the table has and those that the file has, as far as they fit 2,000 characters each."""
    return {
        "expected_schema": table_schema_text(stream.columns),
        "found_schema": file_schema_text(schema),
    }

"""What a dead letter says of a file: names, types, counts and positions, never a row's value (D15)."""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict

from consumer.broker import Delivery
from feeders.drift import file_schema_text, table_schema_text
from feeders.errors import StatementFailed
from feeders.failures import Failure
from feeders.parquet import BadFile
from feeders.parquet_types import FileSchema
from feeders.streams import Stream

Detail = Mapping[str, str | int | None]
MOST_PAYLOAD_BYTES = 64 * 1024


def announcement(failure: Failure, unread: Delivery | None) -> bytes:
    """What the feed of dead letters says; with the payload, up to 64 KiB of it, of a message that could not be read."""
    said: dict[str, object] = {"schema": "lotus-lake.dead/1", **asdict(failure)}
    said["stream"] = str(failure.stream) if failure.stream else None
    if unread is not None:
        payload = unread.payload[:MOST_PAYLOAD_BYTES]
        said |= {"subject": unread.subject, "payload_base64": base64.b64encode(payload).decode()}
    return json.dumps(said).encode()


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

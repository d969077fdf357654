"""The schema of the status, as tests hold an object against it."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator


def validator() -> Draft202012Validator:
    """The schema of docs/, closed: what it does not name is refused, and what it names has to be there."""
    path = Path(__file__).resolve().parents[1] / "docs" / "status.schema.json"
    schema = json.loads(path.read_text(), object_hook=closed)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def closed(part: dict[str, Any]) -> dict[str, Any]:
    """An object of the schema, with nothing left open."""
    if part.get("type") != "object":
        return part
    assert set(part["required"]) == set(part["properties"])
    return {**part, "additionalProperties": False}

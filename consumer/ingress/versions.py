"""Names of object versions: SeaweedFS keeps a version of `<key>` as an entry `<key>.versions/v_<id>`."""

import re

_ENTRY = re.compile(r"(?P<key>.+)\.versions/v_(?P<id>[0-9a-f]+)", re.DOTALL)


def known_version(version_id: str | None) -> str | None:
    """Return a version id, or None where there is none: "null" names what was put without versioning."""
    return None if version_id in (None, "", "null") else version_id


def split_version(path: str) -> tuple[str, str | None]:
    """Return the key that an entry's path is a version of, and that version's id; else the path and None."""
    match = _ENTRY.fullmatch(path)
    return (match["key"], match["id"]) if match else (path, None)

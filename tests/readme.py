"""The tables of README and docs/ that come from the code: commands, settings, metrics. `make docs` writes them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperGroup

from consumer.cli import app
from consumer.metrics import Metrics
from consumer.settings import Settings, variables_by_field

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
METRICS = ROOT / "docs" / "metrics.md"
_MIB = 1024**2

ALSO_NEEDED = ("nats_url", "filer_grpc", "landing_bucket", "lake_path", "project_dir")
"""The settings that README has beside the required ones: where a new user's servers and files are."""

FOUND_OUT = {
    "spool_dir": "below the system's temporary folder",
    "duckdb_memory_bytes": "256 MiB, or half of the container's limit",
}
"""The defaults that are found out at the start."""

KINDS: dict[object, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "secret text",
    Path: "path",
}
UNITS = {
    "_ms": "milliseconds",
    "_s": "seconds",
    "_hours": "hours",
    "_days": "days",
    "_bytes": "bytes",
    "_percent": "percent",
    "_share": "1 is all",
    "_rows": "rows",
    "_files": "files",
    "_keys": "keys",
    "_pending": "keys",
    "_slots": "keys",
    "_reads": "objects",
    "_columns": "columns",
    "_row_groups": "row groups",
    "_depth": "levels",
    "_threads": "threads",
}
"""By the end of a setting's name."""


def rendered(path: Path) -> str:
    """The file's text with each of its tables between its markers as the code says it is."""
    text = path.read_text()
    for name, table in TABLES[path].items():
        begin, end = f"<!-- {name}: make docs -->\n", f"<!-- end of {name} -->"
        pattern = re.compile(rf"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"expected one table between {begin.strip()} and {end}"
        body = "\n".join(table())
        text = pattern.sub(lambda _, body=body: f"\n{body}\n\n", text)
    return text


def commands() -> Iterator[str]:
    """A row for each command: with its arguments, what it does, and its options."""
    yield from ("| command | what it does | options |", "|---|---|---|")
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    yield from _commands_of(group, "lotus-lake")


def _commands_of(group: TyperGroup, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        if isinstance(command, TyperGroup):
            yield from _commands_of(command, path)
            continue
        options = ", ".join(
            f"`{each.opts[0]}`"
            for each in command.params
            if each.param_type_name == "option" and each.name != "help"
        )
        arguments = [
            str(each.metavar or each.name) for each in command.params if isinstance(each, TyperArgument)
        ]
        summary = (command.help or "").split("\n")[0]
        yield f"| `{' '.join([path, *arguments])}` | {summary} | {options} |"


def settings() -> Iterator[str]:
    """A row for each setting: its variables, its type, its default, its unit, what it is for."""
    yield from ("| variable | type | default | unit | what it is for |", "|---|---|---|---|---|")
    for field, info in Settings.model_fields.items():
        unit = next((unit for suffix, unit in UNITS.items() if field.endswith(suffix)), "")
        yield (
            f"| {_variables(field)} | {_type(info)} | {_default(field, info)} | {unit} | {info.description} |"
        )


def needed_settings() -> Iterator[str]:
    """A row for each setting that a new user needs."""
    yield from ("| variable | default | what it is for |", "|---|---|---|")
    for field, info in Settings.model_fields.items():
        if info.is_required() or field in ALSO_NEEDED:
            yield f"| {_variables(field)} | {_default(field, info)} | {info.description} |"


def _variables(field: str) -> str:
    first, *others = variables_by_field()[field]
    return f"`{first}`" + "".join(f", also `{other}`" for other in others)


def _default(field: str, info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    return FOUND_OUT[field] if info.default_factory is not None else _text(info.default)


def _type(info: FieldInfo) -> str:
    """What a value may be: its kind, its bounds, and its pattern if it has one."""
    kinds = {part for part in (get_args(info.annotation) or (info.annotation,)) if part is not type(None)}
    (kind,) = kinds
    bounds = {
        name: getattr(each, name)
        for each in info.metadata
        for name in ("ge", "le", "pattern")
        if getattr(each, name, None) is not None
    }
    text = KINDS[kind]
    if "pattern" in bounds:
        return f"{text} like `{bounds['pattern']}`".replace("|", "\\|")
    if "ge" in bounds and "le" in bounds:
        return f"{text}, {bounds['ge']} to {bounds['le']}"
    return f"{text}, {bounds['ge']} or more" if "ge" in bounds else text


def _text(value: object) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return f"`{str(value).lower()}`"
        case int() if value >= _MIB and value % _MIB == 0:
            return f"`{value}` ({value // _MIB} MiB)"
        case _:
            return f"`{value}`"


def metrics() -> Iterator[str]:
    """A row for each metric: its name, its kind, its labels, the question that it answers."""
    yield from ("| metric | kind | labels | the question it answers |", "|---|---|---|---|")
    for family in Metrics().registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield f"| `{family.name}{suffix}` | {family.type} | {_LABELS.get(family.name, '')} | {family.documentation} |"


def _labels() -> dict[str, str]:
    found: dict[str, str] = {}
    for metric in vars(Metrics()).values():
        name, labels = getattr(metric, "_name", None), getattr(metric, "_labelnames", ())
        if isinstance(name, str):
            found[name] = ", ".join(labels)
    return found


_LABELS = _labels()
TABLES: dict[Path, dict[str, Callable[[], Iterator[str]]]] = {
    README: {"commands": commands, "settings": needed_settings},
    CONFIGURATION: {"settings": settings},
    METRICS: {"metrics": metrics},
}


if __name__ == "__main__":
    for each in TABLES:
        each.write_text(rendered(each))

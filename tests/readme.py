"""The tables of README and docs/ that come from the code: commands, settings, metrics. `make docs` writes them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperGroup

from consumer.cli import app
from consumer.metrics import Metrics
from consumer.settings import Settings, variables_by_field

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
METRICS = ROOT / "docs" / "metrics.md"
_MIB = 1024**2


FOUND_OUT = {
    "spool_dir": "below the system's temporary folder",
    "duckdb_memory_bytes": "256 MiB, or half of the container's limit",
}
"""The defaults that are found out at the start."""


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
    """A row for each setting: its variables, its default, what it is for."""
    yield from ("| variable | default | what it is for |", "|---|---|---|")
    names = variables_by_field()
    for field, info in Settings.model_fields.items():
        first, *others = names[field]
        variable = f"`{first}`" + "".join(f", also `{other}`" for other in others)
        if info.is_required():
            default = "**required**"
        elif info.default_factory is not None:
            default = FOUND_OUT[field]
        else:
            default = _text(info.default)
        yield f"| {variable} | {default} | {info.description} |"


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
    README: {"commands": commands, "settings": settings},
    METRICS: {"metrics": metrics},
}


if __name__ == "__main__":
    for each in TABLES:
        each.write_text(rendered(each))

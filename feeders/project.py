"""Where `ddl/` and `transforms/` are: the one function that looks for them, and the error of their files.

ProjectError
└── SqlFileError    one file is wrong: its path, its line, what was found and what mends it
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Origin = Literal["LOTUS_PROJECT_DIR", "wheel", "checkout"]

_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = ("ddl", "transforms")


class ProjectError(Exception):
    """The project's SQL files are missing or wrong: nothing can start until a person mends them."""


class SqlFileError(ProjectError):
    """One SQL file of the project is wrong."""

    def __init__(self, path: Path, what: str, *, line: int | None = None, hint: str | None = None) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {what}" + (f"\n  hint: {hint}" if hint else ""))
        self.path = path
        self.line = line
        self.what = what
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Project:
    """The folders with the project's SQL. `origin` says which of the three places they came from."""

    ddl: Path
    transforms: Path
    origin: Origin


def find_project(project_dir: Path | None, *, package: Path = _PACKAGE) -> Project:
    """Find `ddl/` and `transforms/`: in the given folder, else in the wheel, else in the checkout.

    Args:
        project_dir: the value of LOTUS_PROJECT_DIR. If given, no other place is tried.
        package: the folder of the feeders package; the wheel's copy is below it, the checkout above.

    Raises:
        ProjectError: none of the places has both folders.
    """
    built_in: list[tuple[Origin, Path]] = [("wheel", package / "_project"), ("checkout", package.parent)]
    places: list[tuple[Origin, Path]] = [("LOTUS_PROJECT_DIR", project_dir)] if project_dir else built_in
    for origin, root in places:
        if not _missing(root):
            return Project(ddl=root / "ddl", transforms=root / "transforms", origin=origin)
    tried = [f"  {origin} {root}: {_missing(root)}" for origin, root in places]
    if project_dir is None:
        tried.insert(0, "  LOTUS_PROJECT_DIR: not set")
    else:
        tried += [f"  {origin} {root}: not tried, LOTUS_PROJECT_DIR is set" for origin, root in built_in]
    message = "\n".join(
        [
            "no folder with both ddl/ and transforms/ was found:",
            *tried,
            "  hint: set LOTUS_PROJECT_DIR to the folder that holds both, or unset it for the built-in ones",
        ]
    )
    raise ProjectError(message)


def _missing(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    return ", ".join(f"no {name}/ in it" for name in _FOLDERS if not (root / name).is_dir())

"""Where `ddl/` and `transforms/` are: the one function that looks for them, and the error of their files.

ProjectError
├── SqlFileError           one file is wrong: its path, its line, what was found and what mends it
└── ProjectFolderRefused   a project can't be copied there
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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


class ProjectFolderRefused(ProjectError):
    """A project can't be copied into this folder; nothing in it was changed."""

    def __init__(self, what: str, *, hint: str) -> None:
        super().__init__(what)
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


def copy_project(project: Project, folder: Path) -> list[Path]:
    """Copy a project's files into a folder that is empty or not there yet.

    All or nothing: they are copied beside it first, so that a full disk leaves no half of a project behind.

    Returns:
        What was copied, sorted, relative to the folder.

    Raises:
        ProjectFolderRefused: something is in it, or it can't be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            found = "is not empty" if folder.is_dir() else "is no folder"
            raise ProjectFolderRefused(
                f"{folder} {found}", hint="name one that is empty or not there yet: nothing is overwritten"
            )
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".lotus-lake-", dir=folder.absolute().parent) as name:
            copy = Path(name) / "project"
            for source in (project.ddl, project.transforms):
                for path in source.rglob("*.sql"):  # not copytree, which copies rights: ours may be read-only
                    target = copy / source.name / path.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
            # A rename onto an empty folder replaces it; onto one that was filled in the meantime it fails.
            copy.rename(folder.absolute())
    except OSError as error:
        raise ProjectFolderRefused(
            f"{folder} can't be written: {error.strerror or error}",
            hint="look at the rights and the room of the folder above it",
        ) from error
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _missing(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    return ", ".join(f"no {name}/ in it" for name in _FOLDERS if not (root / name).is_dir())

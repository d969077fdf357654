"""Carries out a Dockerfile without a container engine: its steps as commands in a folder, as a normal user.

The file is read, not copied, so a test follows what it says. What stands for what:

- the root file system of a stage: the folder `root`, which a later stage finds renamed to the stage's name, so
  that absolute paths inside it stay true as they do in a container;
- the image's Python: a new virtual environment beside it, without anything but pip;
- the build context: the files of the checkout that `.dockerignore` lets through;
- the user: when the tests run as root, "nobody".
"""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from consumer.embedded import launch

NOBODY = 65534
PYTHON = Path(sys.executable).resolve()
_FROM_HOST = ("PIP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
"""How this machine reaches its package index: the one thing that a build takes from outside."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One instruction: its keyword, its `--flags`, and the rest."""

    keyword: str
    flags: Mapping[str, str]
    text: str

    def words(self) -> list[str]:
        """The rest as words, from the JSON form or the plain one."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(kw_only=True)
class Image:
    """What the last stage ends as."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict[str, str])
    workdir: Path = Path("/")
    user: str = "0"
    owners: dict[str, str] = field(default_factory=dict[str, str])
    volumes: list[str] = field(default_factory=list[str])
    entrypoint: list[str] = field(default_factory=list[str])
    command: list[str] = field(default_factory=list[str])
    healthcheck: list[str] = field(default_factory=list[str])
    stop_signal: str = "SIGTERM"

    @property
    def root(self) -> Path:
        """The root file system."""
        return self.folder / "root"

    @property
    def home(self) -> Path:
        """A HOME that was empty at the start."""
        return self.folder / "home"

    def inside(self, path: str) -> Path:
        """Where an absolute path of the image is."""
        return self.root / path.lstrip("/")

    def popen(self, argv: list[str], *, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Starts a program as the image would."""
        return subprocess.Popen(
            as_normal_user([str(shutil.which(argv[0], path=self.env["PATH"])), *argv[1:]]),
            cwd=self.workdir,
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Runs a program to its end; returns its exit status and its output."""
        with self.popen(list(argv), env=env) as process:
            output, _ = process.communicate(timeout=120)
            return process.returncode, output


def as_normal_user(argv: list[str]) -> list[str]:
    """The command that runs `argv`, whose first word is a path, as a normal user, whoever runs the tests.

    Root becomes "nobody", with leave to read (an interpreter below /root, say) and no other right.
    """
    if os.geteuid() != 0:
        return argv
    order: launch.Order = {
        "argv": argv,
        "parent": os.getpid(),
        "death_signal": signal.SIGKILL,
        "uid": NOBODY,
        "gid": NOBODY,
        "needs": [{"path": str(PYTHON), "mode": os.R_OK | os.X_OK}],
    }
    return [sys.executable, "-I", "-S", launch.__file__, json.dumps(order)]


def parse(text: str) -> list[list[Step]]:
    """The stages of a Dockerfile, each with its steps, FROM first."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[list[Step]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        flags: dict[str, str] = {}
        while match := re.match(r"\s*--([a-z-]+)=(\S+)\s+", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        if keyword == "FROM":
            stages.append([])
        stages[-1].append(Step(keyword=keyword, flags=flags, text=rest.strip()))
    return stages


def build(checkout: Path, folder: Path) -> Image:
    """Carries out the checkout's Dockerfile in an empty folder, and returns what its last stage made.

    Raises:
        AssertionError: a step failed, or is of a kind that this can't carry out.
    """
    stages = parse((checkout / "Dockerfile").read_text())
    context = folder / "context"
    copy_context(checkout, context)
    own(folder)
    image = Image(folder=folder)
    for steps in stages:
        image = _Stage(folder, context, tops_of(stages)).carry_out(steps)
    return image


def tops_of(stages: list[list[Step]]) -> frozenset[str]:
    """The top folders that the Dockerfile makes: a path below one is a path in the image."""
    places = [
        word
        for steps in stages
        for step in steps
        if step.keyword in ("WORKDIR", "COPY", "VOLUME")
        for word in step.words()
    ]
    return frozenset(
        Path(place).parts[1] for place in places if place.startswith("/") and len(Path(place).parts) > 1
    )


def copy_context(checkout: Path, context: Path) -> None:
    """Copies what .dockerignore lets through; it must be of the form: all but these."""
    rules = [line for line in (checkout / ".dockerignore").read_text().splitlines() if line.strip()]
    first, *others = [line for line in rules if not line.startswith("#")]
    assert first == "*", "expected .dockerignore to begin with '*'"
    context.mkdir()
    for name in [line[1:] for line in others if line.startswith("!")]:
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)


def own(folder: Path) -> None:
    """Gives a tree to the normal user."""
    if os.geteuid() == 0:
        for path in everything(folder):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def everything(folder: Path) -> Iterator[str]:
    """The paths of a file, or of a folder and all below it."""
    yield str(folder)
    for parent, folders, files in os.walk(folder):
        yield from (f"{parent}/{name}" for name in (*folders, *files))


class _Stage:
    """One stage while it is carried out."""

    def __init__(self, folder: Path, context: Path, tops: frozenset[str]) -> None:
        self.folder = folder
        self.context = context
        self.tops = tops
        self.image = Image(folder=folder)

    def carry_out(self, steps: list[Step]) -> Image:
        image, python = self.image, self.folder / "python"
        name = re.search(r" AS (\w+)$", steps[0].text)
        if image.root.exists():  # an unnamed stage before this one could not be copied from
            raise AssertionError("two stages without a name")
        for path in (image.root, image.home):
            path.mkdir(exist_ok=True)
            own(path)
        image.workdir = image.root
        image.env = {
            **{key: value for key, value in os.environ.items() if key.startswith(_FROM_HOST)},
            "HOME": str(image.home),
            "LANG": "C.UTF-8",
            "PATH": f"{python}/bin:/usr/bin:/bin",
        }
        shutil.rmtree(python, ignore_errors=True)
        pip = [] if any(step.keyword == "RUN" for step in steps) else ["--without-pip"]
        self._shell(shlex.join([str(PYTHON), "-m", "venv", *pip, str(python)]))
        for step in steps[1:]:
            self._carry_out(step)
        if name:
            image.root.rename(self.folder / name[1])
        return image

    def _carry_out(self, step: Step) -> None:
        image = self.image
        match step.keyword:
            case "ENV":
                for word in shlex.split(step.text):
                    key, _, value = word.partition("=")
                    image.env[key] = self._mapped(string.Template(value).substitute(image.env))
            case "WORKDIR":
                image.workdir = image.inside(step.text)
                image.workdir.mkdir(parents=True, exist_ok=True)
                own(image.workdir)
            case "RUN":
                self._shell(self._mapped(step.text))
            case "COPY":
                self._copy(step)
            case _:
                self._note(step)

    def _note(self, step: Step) -> None:
        image = self.image
        match step.keyword:
            case "USER":
                image.user = step.text
            case "VOLUME":
                image.volumes += step.words()
            case "ENTRYPOINT":
                image.entrypoint = step.words()
            case "CMD":
                image.command = step.words()
            case "HEALTHCHECK":
                image.healthcheck = json.loads(step.text.removeprefix("CMD").strip())
            case "STOPSIGNAL":
                image.stop_signal = step.text
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(
                    f"{step.keyword} is not known here: teach tests/image/dockerfile.py what it does"
                )

    def _mapped(self, text: str) -> str:
        """The text with the image's absolute paths as they are outside."""
        tops = "|".join(map(re.escape, sorted(self.tops)))
        return re.sub(rf"(?<![\w./-])/(?=({tops})\b)", f"{self.image.root}/", text)

    def _shell(self, command: str) -> None:
        done = subprocess.run(
            as_normal_user(["/bin/sh", "-c", command]),
            cwd=self.image.workdir,
            env=self.image.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    def _copy(self, step: Step) -> None:
        *sources, target = step.words()
        origin = self.folder / step.flags["from"] if "from" in step.flags else self.context
        place = self.image.inside(target) if target.startswith("/") else self.image.workdir / target
        for name in sources:
            source = origin / name.lstrip("/")
            into = place / source.name if source.is_file() and target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():  # links are copies enough: no step writes to another stage's files
                shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, copy_function=os.link)
            else:
                shutil.copy(source, into)
            own(place)
        self.image.owners[target] = step.flags.get("chown", "0")

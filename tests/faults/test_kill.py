"""kill -9 at each step of the walk while objects land: nothing is lost, and nothing is there twice.

A run is one landing, of which some objects are overwritten, deleted or broken. Each consumer is given time to load
all that the last one left, then is killed at a point while new objects arrive; the next one is killed at another
point while it works that off. More than two deaths in a row would make a suspect of a key that is none.
"""

import ast
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from signal import SIGKILL, SIGUSR1

import pytest

import consumer
import feeders
from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from feeders.fault import POINTS
from tests.bucketful import Mischief
from tests.faults import armed
from tests.faults.record import Book, Fault, Record
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process

ARMED = str(Path(__file__).with_name("armed.py"))
BROKEN_KEY = "raw/klaviyo/lists/year=2026/month=07/day=04/broken {}.parquet"
FILES_A_DEATH = 3
WAIT_FOR_DEATH_S = 4.0


@dataclass(frozen=True, kw_only=True)
class Death:
    """Where a consumer dies: the n-th pass of a point, counted from the first pass of `after` on, if it has one."""

    point: str
    passes: int = 1
    after: str | None = None

    def __str__(self) -> str:
        return f"{self.point} {self.passes}{f' after {self.after}' if self.after else ''}"

    def command(self, *, late: bool) -> tuple[str, ...]:
        """What Python runs; `late` arms it only when it is told to, by SIGUSR1."""
        passes = armed.LATE if late else str(self.passes)
        return (ARMED, "SIGKILL", self.point, passes, *([self.after] if self.after else []))


@dataclass(kw_only=True)
class Fates:
    """What became of the consumers of one run."""

    deaths: Counter[str] = field(default_factory=Counter[str])
    starts: int = 0
    recovery_s: list[float] = field(default_factory=list[float])


SAMPLE_SEED = 2
# The steps that decide: before, in and after each of the two transactions, and around the verdict.
SAMPLE = (
    Death(point="rows written"),
    Death(point="committing", after="cursors written"),
    Death(point="committed", after="cursors written"),
    Death(point="settling"),
    Death(point="transformed"),
)

AT_COMMITS = ("committing", "committed")
COMMITS: tuple[tuple[int, str | None], ...] = (
    # of the DDL, of a new term, of a batch, of the models
    (1, None),
    (2, None),
    (1, "cursors written"),
    (1, "transformed"),
)
OF_DEAD_LETTERS = ("recorded", "announced")
ONCE_A_START = ("page swept", "position saved")


@pytest.mark.timeout(300)
def test_five_deaths(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=SAMPLE_SEED, files=None, rows=(3, 12)))
    die_at(bucketful, SAMPLE, tmp_path)
    assert bucketful.overwrites >= 2, "take a seed whose landing overwrites"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_death_at_each_point(
    tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book, seed: int
) -> None:
    """All points in an order of the seed, some at a later pass."""
    dice = random.Random(seed)
    landing = Landing(seed=seed, files=None, rows=(3, 12))
    bucketful = Bucketful(tenant=tenant, landing=landing, project_dir=project_dir, dice=dice)
    fates = die_at(bucketful, deaths_of_a_round(seed, dice), tmp_path, mischief=Mischief(), book=book)
    assert fates.deaths.keys() == set(POINTS)


def deaths_of_a_round(seed: int, dice: random.Random) -> list[Death]:
    """One death at each point, and two at COMMITs of the four kinds, which take turns."""
    deaths = [
        Death(point=point, passes=1 if point in (*OF_DEAD_LETTERS, *ONCE_A_START) else dice.randint(1, 2))
        for point in POINTS
        if point not in AT_COMMITS
    ]
    for number, point in enumerate(AT_COMMITS):
        kinds = islice(cycle(COMMITS), 2 * seed + number, 2 * seed + number + 2)
        deaths += [Death(point=point, passes=passes, after=after) for passes, after in kinds]
    dice.shuffle(deaths)
    # What happens only at a start can't be waited for by a consumer that has recovered: those are killed early.
    early = [death for death in deaths if death.point in ONCE_A_START]
    others = [death for death in deaths if death not in early]
    return [*(each for pair in zip(others, early, strict=False) for each in pair), *others[len(early) :]]


def die_at(
    bucketful: Bucketful,
    deaths: Sequence[Death],
    folder: Path,
    *,
    mischief: Mischief | None = None,
    book: Book | None = None,
) -> Fates:
    """One run: consumers that recover and die in turns, then one that lives until all is loaded."""
    fates = Fates()
    bucketful.land(1)  # the first sweep has something to find
    for number, death in enumerate(deaths):
        late = number % 2 == 0
        log = folder / f"{number} {death}.log"
        fates.starts += 1
        with consumer_process(
            bucketful.tenant, log, command=death.command(late=late), settings=bucketful.settings()
        ) as dying:
            if late:
                # Where nothing is left to recover, that says nothing of the process.
                dying.wait_for_log(armed.LISTENS)
                recover(bucketful, dying, fates)
                dying.send(SIGUSR1)
                dying.wait_for_log(armed.ARMED)
            die(bucketful, dying, death, number, mischief)
        fates.deaths[death.point] += 1
    fates.starts += 1
    with consumer_process(bucketful.tenant, folder / "last.log", settings=bucketful.settings()) as survivor:
        recover(bucketful, survivor, fates)
        assert_exact(bucketful)
        assert survivor.terminate() == 0, survivor.tail()
    if book is not None:
        book.write(
            Record(
                fault=Fault.DEATH,
                kills=fates.deaths.total(),
                restarts=fates.starts - 1,
                files=bucketful.puts,
                recovery_s=fates.recovery_s[1:],  # the first one had nothing to recover from
                points=dict(fates.deaths),
                detail={"deleted": bucketful.deletions, "broken": len(bucketful.broken | bucketful.mended)},
            )
        )
    return fates


def recover(bucketful: Bucketful, process: ConsumerProcess, fates: Fates) -> None:
    """Waits until the consumer has loaded all that is there; the time is from its start on."""
    try:
        fates.recovery_s.append(wait_until_loaded(bucketful))
    except AssertionError as error:
        error.add_note(process.tail())
        raise


def die(
    bucketful: Bucketful, dying: ConsumerProcess, death: Death, number: int, mischief: Mischief | None
) -> None:
    """Lands until the consumer dies."""
    if death.point in OF_DEAD_LETTERS:
        bucketful.put(BROKEN_KEY.format(number), b"no Parquet", broken=True)
    bucketful.land(FILES_A_DEATH, rate=8, mischief=mischief)
    # A batch takes all that is ready: a second one needs files that come later.
    wait_until(lambda: dies_or_gets_more(dying, bucketful), timeout_s=120, what=str(death))
    assert dying.status() == -SIGKILL, f"{death}: ended with {dying.status()}\n{dying.tail()}"


def dies_or_gets_more(dying: ConsumerProcess, bucketful: Bucketful) -> bool:
    """Waits a while for the end, then lands one more file."""
    if dying.ends_within(WAIT_FOR_DEATH_S):
        return True
    bucketful.land(1)
    return False


def test_points_are_known() -> None:
    """Every point in the code is in POINTS, once, and every one of POINTS is in the code."""
    found: list[str] = []
    for package in (consumer, feeders):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "fault.point":
                    [name] = node.args
                    assert isinstance(name, ast.Constant), f"{path}: {ast.unparse(node)}"
                    found.append(str(name.value))
    assert sorted(found) == sorted(set(POINTS)) == sorted(POINTS)


@pytest.mark.parametrize("seed", range(1, 9))
def test_a_round_has_each_point_and_two_rounds_each_kind_of_commit(seed: int) -> None:
    first, second = (deaths_of_a_round(each, random.Random(each)) for each in (seed, seed + 1))
    assert {death.point for death in first} == set(POINTS)
    for point in AT_COMMITS:
        kinds = {(each.passes, each.after) for each in (*first, *second) if each.point == point}
        assert kinds == set(COMMITS)
    assert all(number % 2 for number, death in enumerate(first) if death.point in ONCE_A_START)

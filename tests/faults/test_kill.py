"""kill -9 at each step of the walk while objects land: nothing is lost, and nothing is there twice.

A run is one landing. Its consumer is killed at one point after the other, each time while new objects arrive,
and then left alone. What must hold is asserted at the end, of every row.
"""

import ast
import random
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

import pytest

import consumer
import feeders
from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from feeders.fault import POINTS
from tests.helpers import wait_until
from tests.landed import Bucketful, assert_exact, wait_until_loaded
from tests.processes import ConsumerProcess, consumer_process

ARMED = str(Path(__file__).with_name("armed.py"))
BROKEN_KEY = "raw/shopify/orders/year=2026/month=07/day=04/broken {}.parquet"
FILES_A_DEATH = 3


@dataclass(frozen=True, kw_only=True)
class Death:
    """Where a consumer dies: the n-th pass of a point, counted from the first pass of `after` on, if it has one."""

    point: str
    passes: int = 1
    after: str | None = None

    def __str__(self) -> str:
        return f"{self.point} {self.passes}{f' after {self.after}' if self.after else ''}"

    @property
    def command(self) -> tuple[str, ...]:
        """What Python runs."""
        return (ARMED, "SIGKILL", self.point, str(self.passes), *([self.after] if self.after else []))


SAMPLE_SEED = 2
# The steps that decide: before, in and after each of the two transactions, and around the verdict.
SAMPLE = (
    Death(point="submitting"),
    Death(point="rows written"),
    Death(point="committing", after="cursors written"),
    Death(point="committed", after="cursors written"),
    Death(point="settling", passes=2),
    Death(point="transformed"),
)

COMMITS = tuple(
    Death(point=point, passes=passes, after=after)
    for point in ("committing", "committed")
    # of the DDL, of the new term, of a batch, of the models
    for passes, after in ((1, None), (2, None), (1, "cursors written"), (1, "transformed"))
)
DEATHS = (*(Death(point=point) for point in POINTS if point not in ("committing", "committed")), *COMMITS)
OF_DEAD_LETTERS = ("recorded", "announced")


def test_six_deaths(tenant: Tenant, tmp_path: Path) -> None:
    bucketful = die_at(tenant, SAMPLE, tmp_path, seed=SAMPLE_SEED)
    assert bucketful.overwrites >= 2, "take a seed whose landing overwrites"


@pytest.mark.timeout(3600)
def test_a_death_at_each_point(tenant: Tenant, tmp_path: Path, seed: int) -> None:
    """Run by `make faults`: all points in an order of the seed, some at a later pass."""
    dice = random.Random(seed)
    deaths = [
        Death(point=each.point, passes=dice.randint(1, 2), after=None)
        if each in DEATHS[: -len(COMMITS)]
        and each.point not in (*OF_DEAD_LETTERS, "page swept", "position saved")
        else each
        for each in dice.sample(DEATHS, len(DEATHS))
    ]
    die_at(tenant, deaths, tmp_path, seed=seed)


def die_at(
    tenant: Tenant, deaths: "tuple[Death, ...] | list[Death]", folder: Path, *, seed: int
) -> Bucketful:
    """One run: a consumer for each death, then one that lives until all is loaded."""
    bucketful = Bucketful(tenant=tenant, landing=Landing(seed=seed, files=None, rows=(3, 12)))
    bucketful.land(1)  # the first sweep has something to find
    for number, death in enumerate(deaths):
        log = folder / f"{number} {death}.log"
        with consumer_process(tenant, log, command=death.command) as dying:
            if death.point in OF_DEAD_LETTERS:
                bucketful.put(BROKEN_KEY.format(number), b"no Parquet", broken=True)
            bucketful.land(FILES_A_DEATH, rate=4)
            # A batch takes all that is ready: a second one needs files that come later.
            wait_until(
                lambda dying=dying: dies_or_gets_more(dying, bucketful), timeout_s=120, what=str(death)
            )
            assert dying.status() == -SIGKILL, f"{death}: ended with {dying.status()}\n{dying.tail()}"
    with consumer_process(tenant, folder / "last.log") as survivor:
        try:
            wait_until_loaded(bucketful)
        except AssertionError as error:
            error.add_note(survivor.tail())
            raise
        assert_exact(bucketful)
        assert survivor.terminate() == 0, survivor.tail()
    return bucketful


def dies_or_gets_more(dying: ConsumerProcess, bucketful: Bucketful) -> bool:
    """Waits a while for the end, then lands one more file."""
    if dying.ends_within(10):
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
    assert sorted(found) == sorted(POINTS)
    assert {death.point for death in DEATHS} == set(POINTS)

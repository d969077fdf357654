"""SeaweedFS, NATS and PostgreSQL die, or stand still, while objects land."""

from pathlib import Path
from typing import Literal

import pytest

from consumer.embedded.identity import Tenant
from consumer.embedded.process import Server
from consumer.embedded.stack import Stack
from tests.faults.campaign import campaign, hold
from tests.faults.record import Book, Fault

Name = Literal["weed", "nats", "postgres"]
KILLED: dict[Name, Fault] = {
    "weed": Fault.WEED_KILLED,
    "nats": Fault.NATS_KILLED,
    "postgres": Fault.POSTGRES_KILLED,
}
STOPPED: dict[Name, Fault] = {
    "weed": Fault.WEED_STOPPED,
    "nats": Fault.NATS_STOPPED,
    "postgres": Fault.POSTGRES_STOPPED,
}
STRIKES = 3
STOPPED_S = 5.0
MOST_DOWN_S = 1.0


def server_of(stack: Stack, name: Name) -> Server:
    match name:
        case "weed":
            return stack.weed
        case "nats":
            return stack.nats
        case "postgres":
            return stack.postgres


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KILLED)
def test_a_server_killed_under_load(
    stack: Stack, tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book, name: Name
) -> None:
    server = server_of(stack, name)
    with campaign(tenant, tmp_path, project_dir=project_dir, seed=11) as run:

        def kill() -> None:
            server.kill()
            hold(run.dice.uniform(0, MOST_DOWN_S))
            server.start()

        try:
            for _ in range(STRIKES):
                run.strike(kill)
        finally:
            server.start()
    run.record(book, KILLED[name], kills=STRIKES, restarts=STRIKES)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STOPPED)
def test_a_server_that_stands_still_under_load(
    stack: Stack, tenant: Tenant, tmp_path: Path, project_dir: Path, book: Book, name: Name
) -> None:
    server = server_of(stack, name)
    with campaign(tenant, tmp_path, project_dir=project_dir, seed=12) as run:

        def pause() -> None:
            server.pause()
            try:
                hold(STOPPED_S)
            finally:
                server.resume()

        for _ in range(STRIKES):
            run.strike(pause)
    run.record(book, STOPPED[name], kills=STRIKES, restarts=STRIKES)

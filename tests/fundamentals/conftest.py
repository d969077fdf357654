"""The tutorial's consumer: one for all of its files, which use keys and ids of their own."""

from collections.abc import Iterator

import pytest

from consumer.embedded.stack import Stack
from tests.service import RunningService, running_service


@pytest.fixture(scope="package")
def service(stack: Stack) -> Iterator[RunningService]:
    """SeaweedFS, NATS and PostgreSQL run, and so does the consumer of a lake that was empty at first."""
    with running_service(stack.tenant("tutorial")) as service:
        yield service

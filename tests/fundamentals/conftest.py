"""The tutorial's consumer: each file has one, on a lake of its own."""

import uuid
from collections.abc import Iterator

import pytest

from consumer.embedded.stack import Stack
from tests.service import RunningService, running_service


@pytest.fixture(scope="module")
def service(stack: Stack) -> Iterator[RunningService]:
    """SeaweedFS, NATS and PostgreSQL run, and so does the consumer of a lake that was empty at first."""
    with running_service(stack.tenant(f"tutorial-{uuid.uuid4().hex[:12]}")) as service:
        yield service

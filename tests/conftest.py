"""Fixtures for tests on real servers: one stack for the run, one tenant for a test."""

import logging
import os
import uuid
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack

# `HYPOTHESIS_PROFILE=faults pytest tests/unit` tries twenty times as many examples (tests.helpers.fuzzed).
settings.register_profile("faults", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that runs in this process sends all logs to the standard error of its test, which is closed then."""
    handlers = list(logging.root.handlers)
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """SeaweedFS, NATS and PostgreSQL in a folder of this run. A server that is missing fails the tests."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack
        stack.postgres.kill()  # its folder is thrown away: spare the checkpoint of every tenant's files


@pytest.fixture
def tenant(stack: Stack) -> Tenant:
    """A lake that no other test knows."""
    return stack.tenant(f"t{uuid.uuid4().hex[:12]}")

"""The documents do what they say: each is followed to the letter, in one lake, in the order in which they are meant."""

from collections.abc import Iterator

import pytest

from tests.documents import DOCS
from tests.following import Reader

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("reader") / "home")
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def started(reader: Reader) -> Reader:
    """Has followed docs/getting-started.md."""
    reader.follow(DOCS / "getting-started.md")
    return reader


def test_getting_started(started: Reader) -> None:
    assert started.connect_sql.exists()

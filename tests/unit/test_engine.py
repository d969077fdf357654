"""The extensions of DuckDB: their signatures are checked, once in a process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from consumer.settings import inherited_environment

TWO_ENGINES = """
import json
from feeders.catalog import Catalog
from feeders.lake import Engine, LakeConfig, ObjectStore
config = LakeConfig(
    catalog=Catalog(host="h", port=1, database="d", user="u", password="p"),
    store=ObjectStore(endpoint="http://127.0.0.1:1", access_key_id="k", secret_access_key="s"),
    data_path="s3://lake/data/", instance="w-test",
)
takes_unsigned = "SELECT current_setting('allow_unsigned_extensions')"
print(json.dumps([Engine(config).take().execute(takes_unsigned).fetchone()[0] for _ in range(2)]))
"""


def run_two_engines(*first_on_the_path: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(str(each) for each in (*first_on_the_path, *sys.path) if str(each))
    return subprocess.run(
        [sys.executable, "-c", TWO_ENGINES],
        env=inherited_environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_signatures_are_checked_once_in_a_process() -> None:
    done = run_two_engines()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, True]


def test_an_extension_that_someone_changed_is_refused(tmp_path: Path) -> None:
    name = "duckdb_extension_httpfs"
    shutil.copytree(str(files(name)), tmp_path / name)
    (extension,) = (tmp_path / name).rglob("*.duckdb_extension")
    with extension.open("r+b") as file:
        file.seek(extension.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    done = run_two_engines(tmp_path)
    assert done.returncode != 0, "it was loaded"
    assert "signature" in done.stderr

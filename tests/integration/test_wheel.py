"""The wheel, installed outside the checkout: it has all it needs, the project's SQL included.

The environment is empty but for the wheel. The libraries it needs come from the environment of the tests, whose
editable install of the checkout stays invisible: `test_the_checkout_is_out_of_reach` holds that.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.embedded.identity import Tenant

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {
    "consumer": "consumer",
    "feeders": "feeders",
    "ddl": "feeders/_project/ddl",
    "transforms": "feeders/_project/transforms",
}


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment with the wheel, a folder to be in, and an empty HOME."""

    wheel: Path
    bin: Path
    folder: Path
    home: Path

    def run(
        self, command: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment, with nothing of the tests' environment variables."""
        return subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.folder,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment, dist, home, place = (folder / name for name in ("environment", "dist", "home", "place"))
    home.mkdir()
    place.mkdir()
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)]
    run_python(*build, cwd=ROOT)
    (wheel,) = dist.glob("*.whl")
    run_python("-m", "venv", "--without-pip", str(environment), cwd=folder)
    pip = ["-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    run_python(*pip, "--no-deps", "--no-index", str(wheel), cwd=folder)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    libraries = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    # A path file adds these folders, but not what their own path files add: the checkout.
    (site_packages / "libraries.pth").write_text("\n".join(libraries))
    return Installed(wheel=wheel, bin=environment / "bin", folder=place, home=home)


def run_python(*arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


def test_the_wheel_has_every_file_of_the_project(installed: Installed) -> None:
    packed = set(zipfile.ZipFile(installed.wheel).namelist())
    wanted = {
        f"{place}/{path.relative_to(ROOT / source).as_posix()}"
        for source, place in SHIPPED.items()
        for path in (ROOT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in packed if ".dist-info/" not in name} == wanted
    assert {
        "consumer/ingress/filer_pb2.py",
        "consumer/py.typed",
        "consumer/status.html",
        "feeders/py.typed",
        "feeders/_project/ddl/shopify/stg_shopify__orders.sql",
        "feeders/_project/transforms/enriched/sales/fct_sales.sql",
    } <= wanted
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)


def test_the_checkout_is_out_of_reach(installed: Installed) -> None:
    code = "import sys, json, consumer, feeders; print(json.dumps([consumer.__file__, feeders.__file__, sys.path]))"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    consumer_file, feeders_file, path = json.loads(done.stdout)
    for file in (consumer_file, feeders_file):
        assert Path(file).is_relative_to(installed.bin.parent)
    assert str(ROOT) not in path


def test_it_says_what_it_can_do(installed: Installed) -> None:
    done = installed.run("lotus-lake", "--help")
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert "check" in done.stdout


def test_it_says_its_version(installed: Installed) -> None:
    done = installed.run("lotus-lake", "--version")
    assert done.returncode == 0, done.stderr
    assert f"-{done.stdout.split()[1]}-" in installed.wheel.name


def test_it_checks_a_real_lake_with_the_sql_in_the_wheel(installed: Installed, tenant: Tenant) -> None:
    made = installed.run("lotus-lake", "ddl", "apply", env=tenant.env())
    assert made.returncode == 0, made.stdout + made.stderr
    done = installed.run("lotus-lake", "check", "--json", env=tenant.env())
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {each["subject"]: each["found"] for each in json.loads(done.stdout)}
    assert findings["project"].endswith("from the wheel")
    assert "9 streams" in findings["project"]
    assert findings["lake"].startswith("it opens")
    assert list(installed.home.iterdir()) == [], "something was installed at run time"


def test_it_copies_its_sql_to_start_from(installed: Installed) -> None:
    done = installed.run("lotus-lake", "init", "mine/project", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = installed.folder / "mine" / "project"
    said = json.loads(done.stdout)
    assert Path(said["folder"]) == folder
    wanted = {
        path.relative_to(ROOT): path.read_bytes()
        for name in ("ddl", "transforms")
        for path in (ROOT / name).rglob("*.sql")
    }
    found = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == wanted
    assert said["files"] == sorted(map(str, wanted))
    checked = installed.run("lotus-lake", "transform", "check", env={"LOTUS_PROJECT_DIR": str(folder)})
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_project_folder_of_ones_own_wins(installed: Installed, tenant: Tenant, tmp_path: Path) -> None:
    for name in ("ddl", "transforms"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "transforms" / "enriched" / "customers" / "fct_customer_engagement.sql").unlink()
    env = tenant.env() | {"LOTUS_PROJECT_DIR": str(tmp_path)}
    done = installed.run("lotus-lake", "check", "--json", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (project,) = (each["found"] for each in json.loads(done.stdout) if each["subject"] == "project")
    assert project == "9 streams, 10 models and 14 checks, from the LOTUS_PROJECT_DIR"

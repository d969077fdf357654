"""Where the project's SQL is found."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from feeders.project import ProjectError, ProjectFolderRefused, copy_project, find_project


def make(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


def test_the_given_folder_comes_first(tmp_path: Path) -> None:
    package = make(tmp_path / "site" / "feeders", "_project/ddl", "_project/transforms")
    given = make(tmp_path / "given", "ddl", "transforms")
    project = find_project(given, package=package)
    assert (project.ddl, project.transforms) == (given / "ddl", given / "transforms")
    assert project.origin == "LOTUS_PROJECT_DIR"


def test_the_copy_in_the_wheel_comes_before_the_checkout(tmp_path: Path) -> None:
    make(tmp_path, "ddl", "transforms")
    package = make(tmp_path / "feeders", "_project/ddl", "_project/transforms")
    project = find_project(None, package=package)
    assert (project.ddl, project.origin) == (package / "_project" / "ddl", "wheel")


def test_the_checkout_is_the_last_place(tmp_path: Path) -> None:
    make(tmp_path, "ddl", "transforms")
    project = find_project(None, package=make(tmp_path / "feeders", "_project/ddl"))
    assert (project.transforms, project.origin) == (tmp_path / "transforms", "checkout")


def test_a_wrong_given_folder_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    package = make(tmp_path / "feeders", "_project/ddl", "_project/transforms")
    given = make(tmp_path / "given", "ddl")
    with pytest.raises(ProjectError) as error:
        find_project(given, package=package)
    text = str(error.value)
    assert f"LOTUS_PROJECT_DIR {given}: no transforms/ in it" in text
    assert f"wheel {package / '_project'}: not tried" in text
    assert f"checkout {tmp_path}: not tried" in text


def test_the_error_names_all_three_places_and_what_they_lack(tmp_path: Path) -> None:
    package = make(tmp_path / "feeders")
    make(tmp_path, "transforms")
    with pytest.raises(ProjectError) as error:
        find_project(None, package=package)
    text = str(error.value)
    assert "LOTUS_PROJECT_DIR: not set" in text
    assert f"wheel {package / '_project'}: no such folder" in text
    assert f"checkout {tmp_path}: no ddl/ in it" in text


def test_this_checkout_is_found() -> None:
    assert find_project(None).ddl.is_dir()


def test_a_copy_goes_into_an_empty_folder_or_a_new_one(tmp_path: Path) -> None:
    project = find_project(None)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "not" / "there"):
        files = copy_project(project, folder)
        assert Path("ddl/shopify/stg_shopify__orders.sql") in files
        mine = find_project(folder)
        assert (mine.ddl, mine.transforms) == (folder / "ddl", folder / "transforms")
        assert all((folder / path).read_bytes() == (project.ddl.parent / path).read_bytes() for path in files)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "not"}, "what was copied beside it is gone"


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{tmp_path} is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ProjectFolderRefused, match="is no folder"):
        copy_project(find_project(None), kept)
    assert kept.read_text() == "mine"

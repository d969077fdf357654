"""Where the project's SQL is found."""

from pathlib import Path

import pytest

from feeders.project import ProjectError, find_project


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

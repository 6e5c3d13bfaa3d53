"""What is installed is what is in the tree: a folder missing from `packages` would work in an editable
install and be absent from the wheel."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("cache", "proxy")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree and nothing of an earlier build is taken."""
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "tree"
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]):
        shutil.copy(ROOT / name, copy / name)
    # Without fetching the build tool anew where a new enough one is installed: works with no network then.
    isolation = [] if _setuptools() < 77 else ["--no-build-isolation"]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*build, *isolation, "--wheel-dir", str(directory), str(copy)], check=True, timeout=180)
    (built,) = directory.glob("*.whl")
    return built


def _setuptools() -> int:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def test_every_folder_is_listed(project: dict[str, Any]) -> None:
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    names = sorted("entrepot." + ".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert project["tool"]["setuptools"]["packages"] == names
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_every_file_is_in_the_wheel(wheel: Path) -> None:
    in_tree = {
        f"entrepot/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"entrepot/cache/py.typed", "entrepot/proxy/py.typed"} <= in_tree
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == in_tree


def test_the_wheel_alone_runs(wheel: Path, project: dict[str, Any], tmp_path: Path) -> None:
    """With our dependencies from here, and no checkout in reach."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = "import entrepot.proxy, entrepot.cache; print(entrepot.proxy.__file__, entrepot.cache.__file__)"
    where = _python("-c", script, path=tmp_path).split()
    assert [Path(file).is_relative_to(tmp_path) for file in where] == [True, True]
    assert _python("-m", "entrepot.proxy", "--version", path=tmp_path).split() == [
        "entrepot",
        project["project"]["version"],
    ]


def _python(*arguments: str, path: Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(path)},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout

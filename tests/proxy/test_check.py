"""`entrepot check`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from entrepot.proxy.cli import check
from entrepot.proxy.config import document


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["check", *words])
    assert args.run is check.run
    return check.run(args)


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(document, "PLACES", (Path("upstreams.yaml"), tmp_path / "etc" / "upstreams.yaml"))


def test_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("no configuration file found: the built-in configuration is good\n")
    assert "cache    /home/u/.cache/entrepot (at most 80% of the disk)" in out
    assert "mirrors  6 registries\n" in out
    assert "docker.io          https://registry-1.docker.io, the default, anonymous" in out


def test_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("upstreams.yaml").write_text(
        """
cache: {dir: var, max_size: 50GiB}
upstreams:
  quay.io:
    prefix: [q]
    offline: true
    credentials: {username: bot, password: hunter2}
"""
    )
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        f"""\
upstreams.yaml is good

  clients  127.0.0.1:5080
  admin    127.0.0.1:5081
  cache    {Path.cwd()}/var (at most 50GiB)
  mirrors  1 registry
    quay.io  https://quay.io, also as q/, as bot, offline
  No upstream has `default: true`: a request that names no registry finds nothing.

warning: upstreams.yaml:7: upstreams.quay.io.credentials.password: the password can be read here: \
`password_file`, `password_env` or `${{NAME}}` keep it elsewhere
"""
    )


def test_all_mistakes_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text("lissten: x\ndrain: soon\n")
    assert run("--config", "bad.yaml") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["bad.yaml:1", "bad.yaml:2"]


def test_a_named_file_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--config", "none.yaml") == 2
    assert capsys.readouterr().err == "none.yaml: cannot be read: there is no such file\n"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["source"] == "built-in"
    assert [upstream["name"] for upstream in found["upstreams"]][:2] == ["docker.io", "quay.io"]
    assert found["warnings"] == []


def test_mistakes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("upstreams.yaml").write_text("\nlissten: x\n")
    assert run("--json") == 2
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": [
            {
                "source": "upstreams.yaml",
                "line": 2,
                "key": "lissten",
                "message": "is no key; did you mean `listen`?",
            }
        ],
    }

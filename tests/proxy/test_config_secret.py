"""Secrets: read where they are kept, and never seen."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import pickle
import pprint
import sys
import traceback
from pathlib import Path

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.proxy.config import Config, Secret, parse
from entrepot.proxy.config.problem import Mistake

HIDDEN = "hunter2-hunter2"


def file_secret(tmp_path: Path, content: str = HIDDEN) -> tuple[Path, Secret, ManualClock]:
    path, clock = tmp_path / "password", ManualClock()
    path.write_text(content)
    return path, Secret.from_file(path, clock=clock), clock


def with_every_kind(tmp_path: Path) -> Config:
    (tmp_path / "password").write_text(HIDDEN)
    text = """
upstreams:
  a.b: {credentials: {username: a, password: hunter2-hunter2}}
  c.d: {credentials: {username: a, password_env: P}}
  e.f: {credentials: {username: a, password_file: password}}
  g.h: {credentials: {username: a, password: "${P}"}}
"""
    return parse(text, "u.yaml", tmp_path, environ={"HOME": "/", "P": HIDDEN})


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    config = with_every_kind(tmp_path)
    fields = dataclasses.asdict(config)
    shown = [
        repr(config),
        str(config),
        f"{config}",
        pprint.pformat(config),
        pprint.pformat(fields),
        repr(fields),
    ]
    for upstream in config.upstreams.values():
        credential = upstream.credential
        assert credential is not None
        secret = credential.password
        assert secret.read() == HIDDEN
        shown += [repr(credential), credential.identity(), secret.origin, str(secret), f"{secret:>40}"]
        shown += [repr(copy.copy(secret)), repr(copy.deepcopy(credential))]
        assert not hasattr(secret, "__dict__")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(credential)
        with pytest.raises(TypeError):
            json.dumps(secret)
    shown += [str(warning) for warning in config.warnings]
    assert not [text for text in shown if HIDDEN in text]


def test_a_traceback_with_locals_does_not_show_a_secret(tmp_path: Path) -> None:
    path, secret, clock = file_secret(tmp_path)
    secret.fingerprint("acme")
    del path, clock

    def fails(password: Secret) -> None:
        raise RuntimeError(f"with {password}")

    try:
        fails(secret)
    except RuntimeError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "<Secret from" in text
    assert HIDDEN not in text


@pytest.mark.parametrize("content", [HIDDEN.encode() + b"\xff", b"\n", HIDDEN.encode() * 10_000])
def test_what_is_no_secret_is_not_shown_either(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(Mistake) as raised:
        Secret.from_file(tmp_path / "password")
    error = raised.value
    text = "".join(traceback.TracebackException.from_exception(error).format())
    assert HIDDEN not in text + repr(error) + repr(error.__context__)
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        (" a ", " a "),
        ('{\n"k": 1}\n', '{\n"k": 1}'),
    ],
)
def test_one_line_end_is_left_out(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content.encode())
    assert Secret.from_file(path).read() == expected


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path, secret, clock = file_secret(tmp_path, "old")
    path.write_text("newer")
    assert secret.read() == "old", "looked at less than a second ago"
    clock.advance(1.0)
    assert secret.read() == "newer"


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path, secret, clock = file_secret(tmp_path, "old")
    before = path.stat()
    other = tmp_path / "other"
    other.write_text("new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    clock.advance(1.0)
    assert secret.read() == "new", "of the same size and time, yet another file"


def test_a_link_that_is_turned_is_followed(tmp_path: Path) -> None:
    """As Kubernetes changes a mounted secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text(name)
    (tmp_path / "data").symlink_to("one")
    clock = ManualClock()
    secret = Secret.from_file(tmp_path / "data" / "password", clock=clock)
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "data")
    clock.advance(1.0)
    assert secret.read() == "two"


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path, secret, clock = file_secret(tmp_path)
    opened: list[object] = []
    watching = True
    sys.addaudithook(lambda event, args: opened.append(args[0]) if watching and event == "open" else None)
    clock.advance(1.0)
    assert secret.read() == HIDDEN
    watching = False
    assert str(path) not in opened


def test_the_last_content_stays_when_the_file_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, secret, clock = file_secret(tmp_path)
    caplog.set_level(logging.INFO)
    path.unlink()
    for _ in range(3):
        clock.advance(1.0)
        assert secret.read() == HIDDEN
    path.write_text("")
    clock.advance(1.0)
    assert secret.read() == HIDDEN, "a writer may be in the middle of it"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.write_text("new")
    clock.advance(1.0)
    assert secret.read() == "new"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert HIDDEN not in caplog.text


def test_a_pipe_does_not_hang_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    with pytest.raises(Mistake, match="no regular file"):
        Secret.from_file(tmp_path / "password")


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(Mistake):
        Secret.literal("\ud800")
    with pytest.raises(Mistake):
        Secret.from_env("P", {"P": "\udcff"})


def test_equal_secrets(tmp_path: Path) -> None:
    path, secret, _ = file_secret(tmp_path)
    assert secret == Secret.from_file(path)
    assert hash(secret) == hash(Secret.from_file(path))
    assert Secret.literal("a") == Secret.literal("a")
    assert Secret.literal("a") != Secret.literal("b")
    assert Secret.literal("a") != Secret.from_env("P", {"P": "a"})
    assert Secret.from_env("P", {"P": "a"}) != Secret.from_env("P", {"P": "b"})
    assert secret != HIDDEN


def test_a_fingerprint_follows_the_file(tmp_path: Path) -> None:
    path, secret, clock = file_secret(tmp_path)
    before = secret.fingerprint("acme")
    assert len(before) == 16
    assert secret.fingerprint("acme") == before
    assert secret.fingerprint("other") != before
    path.write_text("new")
    clock.advance(1.0)
    assert secret.fingerprint("acme") != before

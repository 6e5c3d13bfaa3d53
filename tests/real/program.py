"""A program that a test started: how it begins, when it is ready, and that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 30.0
"""Seconds that anything may take to become ready, or one command to end."""


class NotInTime(AssertionError):
    """What was waited for did not come about."""


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = PATIENCE) -> None:
    """Asks again and again until it is so. The one place here that sleeps: other people's programs
    tell nobody when they are ready."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(url: str, *statuses: int) -> bool:
    """Whether something at this URL answers with one of these status codes."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status in statuses
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in statuses
    except OSError:
        return False


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, seconds: float = PATIENCE, fails: bool = False
) -> str:
    """Runs a command to its end and gives what it printed. Raises `AssertionError` with all it said
    when its exit code is not 0, or, where it `fails` on purpose, when it is."""
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if (done.returncode != 0) != fails:
        said = f"{done.stdout}\n{done.stderr}".strip()
        raise AssertionError(f"exit code {done.returncode} of {' '.join(map(str, command))}\n{said}")
    return done.stderr if fails else done.stdout


def clear(home: Path) -> None:
    """Ends the processes whose command line names this directory (containerd's shims and podman's
    conmon leave the process tree that began them), and unmounts what is mounted below it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        _signal_those_of(home, signum)
    _unmount_below(home)


class Program:
    """One started program, with its output in a file. `home` is a directory that is its alone."""

    def __init__(
        self, home: Path, *command: str | Path, env: Mapping[str, str] | None = None, grace: float = 10.0
    ) -> None:
        self.home = home
        self.log = home / "output.log"
        self._command = [str(word) for word in command]
        self._env = {**os.environ, **(env or {})}
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, ready: Callable[[], bool]) -> None:
        """Returns when it is ready; raises `NotInTime` or `AssertionError` with the end of its log."""
        # Ended by the kernel too, should the tests be killed before they can end it themselves.
        bound = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*bound, *self._command], env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        process = self._process

        def ended_or_ready() -> bool:
            return process.poll() is not None or ready()

        try:
            wait_until(ended_or_ready, f"{self._command[0]} ready")
            assert process.returncode is None, f"{self._command[0]} ended with {process.returncode}"
        except AssertionError as error:
            self.stop()
            raise type(error)(f"{error}\n{self.tail()}") from None

    def stop(self) -> int | None:
        """Ends it, asked first, and everything that it began; gives its exit code. Harmless when it
        has ended already."""
        process, self._process = self._process, None
        code = None
        if process is not None:
            process.terminate()
            try:
                code = process.wait(self._grace)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        clear(self.home)
        return code

    def tail(self, lines: int = 40) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _those_of(home: Path) -> Iterator[int]:
    """A zombie has no command line, so it is none of them."""
    word = os.fsencode(home)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word in (entry / "cmdline").read_bytes():
                    yield int(entry.name)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked


def _signal_those_of(home: Path, signum: signal.Signals) -> None:
    for pid in _those_of(home):
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue
    try:
        wait_until(lambda: not list(_those_of(home)), f"everything of {home} ended", seconds=5)
    except NotInTime:
        if signum == signal.SIGKILL:
            raise


def _unmount_below(home: Path) -> None:
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4].encode().decode("unicode_escape") for line in mounts]
    for point in sorted((point for point in points if Path(point).is_relative_to(home)), reverse=True):
        subprocess.run(["umount", "--lazy", point], stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False)

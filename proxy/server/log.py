"""The log: lines on standard error that never make the mirror wait.

A line is put aside in memory and written by a thread of its own; where standard error takes no more, what
does not fit is dropped and counted. A line is one record, whatever a client put into it: control characters
are escaped. Fields of an event stand in `extra={"fields": {…}}` of an ordinary logging call, and
`extra={"repeated": KEY}` makes what is said again and again under one key one line a minute with a count.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from entrepot.cache.clock import Clock, SystemClock

from ..config import LogConfig
from .throttle import Throttle

LINES_LIMIT: Final = 20_000
"""Lines that wait to be written. What comes then is dropped."""
PIECE: Final = 4096
"""Bytes written at once. What a pipe takes in one piece (Linux, pipe(7), PIPE_BUF), so that the lines of
several processes do not mix."""
_TEXT_LIMIT: Final = 16_384
"""Characters of an event, which may be a traceback. No request gives rise to so long a one."""
_GATHER: Final = 0.02
"""Seconds for which lines are gathered into one write."""
_REPEATED_LIMIT: Final = 1000


class LogSink:
    """Writes lines to a descriptor, off every thread but its own."""

    def __init__(self, descriptor: int = 2, *, limit: int = LINES_LIMIT) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._broken = False
        self.dropped = 0
        """Lines so far that found no room, or nobody to read them."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Puts a line aside, without its end. Any thread may; never waits."""
        if len(self._lines) >= self._limit or self._broken:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout: float = 1.0) -> None:
        """Writes what waits, for so many seconds at most."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            if not self._closing:
                time.sleep(_GATHER)
            self._wake.clear()
            self._write_out()
        self._write_out()

    def _write_out(self) -> None:
        piece = bytearray()
        while self._lines:
            line = self._lines.popleft().encode(errors="backslashreplace") + b"\n"
            if len(piece) + len(line) > PIECE:
                self._put(piece)
                piece = bytearray()
            piece += line
        self._put(piece)

    def _put(self, piece: bytearray) -> None:
        rest = memoryview(piece)
        while rest and not self._broken:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody has made it non-blocking for everyone who shares it
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll(1000)
            except OSError:
                self._broken = True


_NUMBERS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Log:
    """What the log of this process looks like and where it goes. One for the process: see `configure`."""

    def __init__(self, config: LogConfig, sink: LogSink, clock: Clock) -> None:
        self.sink = sink
        self.clock = clock
        self.as_json = config.format == "json"
        self.level = _NUMBERS[config.level]
        self._second = -1
        self._second_text = ""

    def timestamp(self) -> str:
        """Now, in UTC, to the millisecond."""
        now = self.clock.wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"

    def event(self, level: str, logger: str, text: str, fields: Mapping[str, Any]) -> None:
        """Writes one line."""
        stamp, text = self.timestamp(), text[:_TEXT_LIMIT]
        if self.as_json:
            line = to_json({"time": stamp, "level": level, "logger": logger, "event": text, **fields})
        else:
            said = "".join(f" {name}={quoted(str(value))}" for name, value in fields.items())
            line = f"{stamp} {level.upper()} {logger} {escaped(text)}{said}"
        self.sink.write(line)


class LogHandler(logging.Handler):
    """Ordinary logging into a `Log`."""

    def __init__(self, log: Log) -> None:
        super().__init__(log.level)
        self._log = log
        self._throttle = Throttle(log.clock)
        self._repeated: dict[str, tuple[str, str, str]] = {}
        self._exceptions = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{self._exceptions.formatException(record.exc_info)}"
            fields = dict(getattr(record, "fields", {}))
            level = record.levelname.lower()
            key = getattr(record, "repeated", None)
            if key is not None:
                times = self._throttle.due(key)
                if times is None:
                    if len(self._repeated) >= _REPEATED_LIMIT:
                        self._repeated.clear()
                    self._repeated[key] = (level, record.name, text)
                    return
                self._repeated.pop(key, None)
                if times > 1:
                    fields["times"] = times
            self._log.event(level, record.name, text, fields)
        except Exception:  # noqa: BLE001 - as every handler of the standard library: logging never fails the caller
            self.handleError(record)

    def flush_repeated(self) -> None:
        """Says what was held back and is due. To be called now and then."""
        self.acquire()
        try:
            for key, times in self._throttle.overdue():
                said = self._repeated.pop(key, None)
                if said is not None:
                    level, name, text = said
                    self._log.event(level, name, text, {"times": times})
        finally:
            self.release()


_current: Log | None = None


def configure(config: LogConfig, *, descriptor: int = 2, clock: Clock | None = None) -> Log:
    """Sends the logging of this process to `descriptor`, in this form, from this level on. Again: changes
    form and level, and goes on with the sink that there is."""
    global _current
    sink = LogSink(descriptor) if _current is None else _current.sink
    _current = Log(config, sink, clock or SystemClock())
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogHandler):
            root.removeHandler(handler)
    root.addHandler(LogHandler(_current))
    root.setLevel(max(_current.level, logging.INFO))
    logging.getLogger("entrepot").setLevel(_current.level)
    return _current


def current() -> Log | None:
    """The log of this process; None before `configure`, when nothing is written."""
    return _current


def dropped() -> int:
    """Lines of this process that found no room so far."""
    return 0 if _current is None else _current.sink.dropped


def flush_repeated() -> None:
    """Says what was held back for being repeated, and is due."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.flush_repeated()


def close() -> None:
    """Writes what waits, for a second at most, and sends nothing more."""
    global _current
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogHandler):
            root.removeHandler(handler)
    if _current is not None:
        _current.sink.close()
        _current = None


def escaped(text: str) -> str:
    """The text with what is not printable as escapes: nothing of it can begin a new line, move a terminal's
    cursor or change the direction of what follows."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def quoted(text: str) -> str:
    """As the value of a field: in quotes where it has spaces or quotes, or is empty."""
    text = escaped(text)
    if text and " " not in text and '"' not in text and "=" not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_json(fields: Mapping[str, Any]) -> str:
    """On one line, ASCII alone."""
    return json.dumps(fields, separators=(",", ":"), default=str).replace("\x7f", "\\u007f")

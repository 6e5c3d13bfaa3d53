"""The configuration: `upstreams.yaml`, read strictly.

find_file -> Document.load -> parse -> Config        read does the last two
keys       the one table of all keys
model      what comes out of it
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .document import BUILT_IN_SOURCE, Document, find_file
from .flags import overrides_from_flags
from .model import (
    Address,
    CacheConfig,
    Config,
    Credential,
    LogConfig,
    Overrides,
    Share,
    TagRule,
    TagTtl,
    Timeouts,
    UpstreamConfig,
    canonical_name,
)
from .problem import ConfigError, Problem
from .reader import read_document
from .reload import changed_without_reload
from .secret import Secret
from .surroundings import Surroundings
from .values import format_duration, format_size

__all__ = [
    "BUILT_IN_SOURCE",
    "Address",
    "CacheConfig",
    "Config",
    "ConfigError",
    "Credential",
    "Document",
    "LogConfig",
    "Overrides",
    "Problem",
    "Secret",
    "Share",
    "TagRule",
    "TagTtl",
    "Timeouts",
    "UpstreamConfig",
    "canonical_name",
    "changed_without_reload",
    "find_file",
    "format_duration",
    "format_size",
    "overrides_from_flags",
    "parse",
    "read",
]


def parse(
    text: str,
    source: str,
    base_dir: Path,
    overrides: Overrides | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """A configuration from its text. Reads the secret files and certificates that it names. Raises
    `ConfigError` with every mistake."""
    around = Surroundings(base_dir.absolute(), os.environ if environ is None else environ)
    return read_document(Document(text, source, base_dir), overrides or Overrides(), around)


def read(
    path: Path | None, overrides: Overrides | None = None, *, environ: Mapping[str, str] | None = None
) -> Config:
    """A configuration from its file; None: the built-in one. Raises `ConfigError` with every mistake."""
    document = Document.load(path)
    return parse(document.text, document.source, document.base_dir, overrides, environ=environ)

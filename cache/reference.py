"""Repository names and tags, by the grammar of the specification (distribution-spec, Pulling manifests)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .digest import Digest
from .errors import InvalidReference

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_NAME_LIMIT: Final = 255

DEFAULT_TAG: Final = "latest"


def check_name(name: str) -> str:
    """The repository's name as it is. Raises `InvalidReference` where the grammar refuses it."""
    if len(name) > _NAME_LIMIT or _NAME.fullmatch(name) is None:
        raise InvalidReference(f"{name[:200]!r} is no repository name")
    return name


def check_tag(tag: str) -> str:
    """The tag as it is. Raises `InvalidReference` where the grammar refuses it."""
    if _TAG.fullmatch(tag) is None:
        raise InvalidReference(f"{tag[:200]!r} is no tag")
    return tag


def parse_reference(text: str) -> str | Digest:
    """What stands behind `manifests/`: a tag as a `str`, or a `Digest`. A tag has no colon, a digest must.
    Raises `InvalidDigest` or `InvalidReference`."""
    return Digest.parse(text) if ":" in text else check_tag(text)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of one upstream, by the names that users write."""

    upstream: str
    """The upstream's name in the configuration, such as `docker.io`."""
    name: str
    """The name within the upstream, such as `library/nginx`."""

    def __str__(self) -> str:
        return f"{self.upstream}/{self.name}"


@dataclass(frozen=True, slots=True)
class Image:
    """What a person names: a repository and, in it, a tag or a digest."""

    repository: Repository
    reference: str | Digest

    def __str__(self) -> str:
        separator = "@" if isinstance(self.reference, Digest) else ":"
        return f"{self.repository}{separator}{self.reference}"


def split_image(text: str) -> tuple[str, str | Digest]:
    """`name[:tag][@digest]` into the name, its registry still in front, and tag or digest. The digest wins
    where both are given, as everywhere in the field. Raises `InvalidReference`."""
    name, at, digest = text.partition("@")
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if not last:
        raise InvalidReference(f"{text[:200]!r} names no repository")
    # Each part that is announced must be there and be right, also the one that is not used: a mistyped
    # image must not be taken for another one.
    reference: str | Digest = check_tag(tag) if colon else DEFAULT_TAG
    if at:
        reference = Digest.parse(digest)
    return head + slash + last, reference

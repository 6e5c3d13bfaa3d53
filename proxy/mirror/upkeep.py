"""Looking after the cache: what `entrepot cache …` does, on a running server and without one alike.

Everything goes in and comes out as JSON can hold it: between the command and the server lies a socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from entrepot.cache.digest import Digest
from entrepot.cache.errors import InvalidReference
from entrepot.cache.index import TagEntry, TagKey
from entrepot.cache.inventory import Content, Image, Inventory
from entrepot.cache.reference import Repository, check_name, split_image

from ..config import Config
from ..upstream.flavour import canonical_repository
from .mirror import Mirror

Json = dict[str, Any]


class NotKnown(Exception):
    """Nothing is known of what was asked for. The text says so to people."""


class Upkeep:
    """The commands. `mirror` is this process's own; `limits` in bytes are for people to compare with."""

    def __init__(self, config: Config, mirror: Mirror) -> None:
        self._config = config
        self._mirror = mirror
        self._inventory = Inventory(mirror.index, mirror.store)

    def resolve(self, image: str) -> tuple[Repository, str | Digest]:
        """What a person wrote, as the registry in front or the default one has it. Raises
        `InvalidReference`, and `NotKnown` for a registry that is not configured."""
        name, reference = split_image(image)
        first, slash, rest = name.partition("/")
        upstream = self._config.upstream_for(first) if slash else None
        if upstream is not None:
            name = rest
        elif slash and ("." in first or ":" in first or first == "localhost"):
            raise NotKnown(f"{first} is not configured; add `{first}: {{}}` to upstreams")
        else:
            upstream = self._config.default_upstream()
            if upstream is None:
                raise NotKnown("write the registry in front: none is the default here")
        name = canonical_repository(upstream.name, check_name(name))
        return Repository(upstream.name, name), reference

    async def list(self, prefix: str = "") -> AsyncIterator[Json]:
        """The tags, those of repositories whose names begin with `prefix`."""
        async for key, entry in self._inventory.tags(prefix):
            yield {"image": _name(key), **_tag(entry, self._mirror.clock.wall())}

    async def show(self, image: str) -> Json:
        """One image, and what of it is here. Raises `NotKnown`, `InvalidReference`."""
        repository, reference = self.resolve(image)
        found = await self._inventory.image(str(repository), reference)
        if found is None:
            raise NotKnown(f"nothing is known of {_joined(repository, reference)}")
        return _image(found, reference, self._mirror.clock.wall())

    async def stats(self) -> Json:
        """Sums over everything."""
        totals = await self._inventory.totals()
        reserved = await self._mirror.reserved()
        return {
            "directory": str(self._config.cache.dir),
            "tags": totals.tags,
            "blobs": totals.blobs,
            "bytes": totals.bytes,
            "manifests": totals.manifests,
            "manifest_bytes": totals.manifest_bytes,
            "partial_bytes": reserved,
            "max_size": self._mirror.limits.max_size,
            "min_free": self._mirror.limits.min_free,
        }

    async def remove(self, image: str) -> Json:
        """Takes an image out. Raises `NotKnown`, `InvalidReference`."""
        repository, reference = self.resolve(image)
        removed = await self._inventory.remove(str(repository), reference)
        if removed is None:
            raise NotKnown(f"nothing is known of {_joined(repository, reference)}")
        return {
            "image": _joined(repository, reference),
            "tags": removed.tags,
            "blobs": removed.blobs,
            "bytes": removed.bytes,
        }

    async def refresh(self, image: str) -> Json:
        """Asks the upstream now what a tag means, forgets that it was ever not there, and says what
        changed. Raises a `SourceError`, `NotKnown`, `InvalidReference`."""
        repository, reference = self.resolve(image)
        if isinstance(reference, Digest):
            raise InvalidReference("a digest always means the same: refresh takes a tag")
        upstream = self._mirror.upstreams[repository.upstream]
        if upstream.offline:
            raise NotKnown(f"{upstream.name} is offline by configuration: nobody can be asked")
        before = await self._mirror.index.tag(TagKey(str(repository), reference))
        after = await self._mirror.tags.refresh(upstream, repository, reference)
        return {
            "image": _joined(repository, reference),
            "before": None if before is None else str(before.digest),
            "after": str(after.digest),
            "changed": before is None or before.digest != after.digest,
        }


def _name(key: TagKey) -> str:
    return f"{key.repository}:{key.tag}"


def _joined(repository: Repository, reference: str | Digest) -> str:
    return f"{repository}{'@' if isinstance(reference, Digest) else ':'}{reference}"


def _tag(entry: TagEntry, now: float) -> Json:
    return {
        "digest": str(entry.digest),
        "media_type": entry.media_type,
        "confirmed_at": entry.confirmed_at,
        "age": max(0.0, now - entry.confirmed_at),
        "first_seen_at": entry.first_seen_at,
        "failure": entry.failure,
        "gone": entry.gone_at is not None,
    }


def _image(image: Image, reference: str | Digest, now: float) -> Json:
    held = [part for part in image.contents if part.held]
    return {
        "image": f"{image.repository}{'@' if isinstance(reference, Digest) else ':'}{reference}",
        "digest": str(image.digest),
        "tag": None if image.entry is None else _tag(image.entry, now),
        "bytes_here": sum(part.size or 0 for part in held),
        "pieces_here": len(held),
        "pieces": len(image.contents),
        "contents": [_content(part) for part in image.contents],
    }


def _content(part: Content) -> Json:
    return {
        "digest": str(part.digest),
        "kind": part.kind,
        "media_type": part.media_type,
        "size": part.size,
        "held": part.held,
        "proved": part.proved,
    }

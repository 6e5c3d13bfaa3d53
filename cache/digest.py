"""Digests: `algorithm:encoded` (image-spec, Digests), and the verifier that runs along with a download."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from .errors import InvalidDigest

_GRAMMAR: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[a-f0-9]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of immutable content. Only made for algorithms that the mirror can verify."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises `InvalidDigest` for a malformed digest, and for a well-formed one of an algorithm
        other than sha256 and sha512: what cannot be verified is not mirrored."""
        if _GRAMMAR.fullmatch(text) is None:
            raise InvalidDigest(f"{text[:200]!r} is no digest")
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise InvalidDigest(f"digests of {algorithm} are not supported, only sha256 and sha512")
        if len(encoded) != length or _HEX.fullmatch(encoded) is None:
            raise InvalidDigest(f"a {algorithm} digest has {length} lower-case hexadecimal digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of bytes at hand."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def matches(self, content: bytes) -> bool:
        """Whether these bytes are what this digest names."""
        return hashlib.new(self.algorithm, content).hexdigest() == self.encoded

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


class Verifier:
    """Hashes content in order as it comes, and says in the end whether it was the right one."""

    __slots__ = ("_digest", "_hash", "offset")

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hash = hashlib.new(digest.algorithm)
        self.offset = 0
        """How many bytes have been hashed."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)
        self.offset += len(data)

    def verified(self) -> bool:
        """Whether what was hashed so far is the whole content."""
        return self._hash.hexdigest() == self._digest.encoded

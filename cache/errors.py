"""What can go wrong, by meaning.

    CacheError
    ├── InvalidReference          a name, tag or digest that the specification's grammar refuses
    │   └── InvalidDigest
    ├── InvalidManifest           bytes that are no manifest
    │   └── ManifestTooLarge
    ├── StorageError              the cache could not keep or read something
    │   ├── StorageFull           no room: the disk, a quota, or the cache's own limits
    │   ├── StorageReadOnly       the directory may not be written
    │   └── StorageBroken         any other failure of the disk
    ├── IndexUnavailable          the index cannot be read or written; never a reason to refuse a pull
    ├── DirectoryInUse            another server has the cache directory
    ├── UnknownFormat             the cache directory has a format that this version cannot read
    ├── ContentMismatch           the bytes were not what the digest promises
    └── SourceError               the source that fills a download did not deliver
        ├── SourceMissing         it says that the content is not there
        ├── SourceRefused         it refuses the repository, though the credential is good
        ├── SourceLimited         it asks to be left alone for a while
        └── SourceUnavailable     it is down, slow, broken or incoherent
            ├── SourceTimeout     it did not answer in time
            └── CredentialRefused it refuses our credential, which says nothing of the content

Raised here by meaning, turned into answers in one place (`entrepot.proxy.errors`).
"""

from __future__ import annotations

import errno


class CacheError(Exception):
    """Anything that this package raises on purpose."""


class InvalidReference(CacheError, ValueError):
    """A repository name, tag or digest that the specification's grammar refuses."""


class InvalidDigest(InvalidReference):
    """A malformed digest, or one of an algorithm that the mirror does not verify."""


class InvalidManifest(CacheError, ValueError):
    """Bytes that are no manifest: no JSON object, or fields of the wrong type."""


class ManifestTooLarge(InvalidManifest):
    """A manifest over the limit of 4 MiB."""


class StorageError(CacheError):
    """The cache could not keep or read something."""


class StorageFull(StorageError):
    """No room: the disk, a quota, or the cache's own limits."""


class StorageReadOnly(StorageError):
    """The directory may not be written."""


class StorageBroken(StorageError):
    """Any other failure of the disk."""


class IndexUnavailable(CacheError):
    """The index cannot be read or written. A pull goes on without it."""


class DirectoryInUse(CacheError):
    """Another server has the cache directory."""

    def __init__(self, directory: str, holder: str) -> None:
        super().__init__(f"{directory} is in use by {holder}")
        self.directory = directory
        self.holder = holder


class UnknownFormat(CacheError):
    """The cache directory has a format that this version cannot read."""


class ContentMismatch(CacheError):
    """The bytes were not what the digest promises."""


class SourceError(CacheError):
    """The source that fills a download did not deliver. `detail` is one line for people."""

    answer: int | None = None
    """The number of the answer in the source's own protocol, where there was an answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SourceMissing(SourceError):
    """The source says that the content is not there."""


class SourceRefused(SourceError):
    """The source refuses the repository, though our credential is good."""


class SourceLimited(SourceError):
    """The source asks to be left alone; `retry_after` is in seconds, None where it did not say."""

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class SourceUnavailable(SourceError):
    """The source is down, slow, broken or incoherent."""


class SourceTimeout(SourceUnavailable):
    """The source did not answer in time."""


class CredentialRefused(SourceUnavailable):
    """The source refuses our credential, which says nothing of the content."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def storage_error(error: OSError) -> StorageError:
    """The meaning of what the operating system said while something was being kept."""
    text = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    if error.errno in _FULL:
        return StorageFull(text)
    if error.errno in _READ_ONLY:
        return StorageReadOnly(text)
    return StorageBroken(text)

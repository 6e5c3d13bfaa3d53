"""Images made from Debian's static busybox, as directories that skopeo pushes byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA2_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
SCHEMA2_CONFIG = "application/vnd.docker.container.image.v1+json"
SCHEMA2_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Image:
    """An image on disk. Digests are those that every client has to end up with."""

    source: str
    """As skopeo names it: `oci:DIR:TAG` or `dir:DIR`."""
    digest: str
    manifest: bytes
    """Of the image, or of the whole index."""
    words: str
    """What it prints when it runs; lies in a layer of its own."""
    blobs: dict[str, int]
    """Digest and size of config and layers; of the child for this machine where it is an index."""
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Images:
    """What the upstreams hold."""

    box: Image
    """Docker schema 2."""
    multi: Image
    """An OCI index."""
    img: Image
    """One OCI image."""


def is_static(program: Path) -> bool:
    """Whether an ELF program names no interpreter: only then it runs with nothing beside it."""
    data = program.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    return all(struct.unpack_from("<I", data, table + n * size)[0] != 3 for n in range(count))  # PT_INTERP


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tar_of(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A layer with these files (path: mode, content), always the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in sorted({path.rpartition("/")[0] for path in files} - {""}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, (mode, content) in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = mode, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _config(layers: list[bytes], architecture: str, command: list[str]) -> bytes:
    return _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": "entrepot's tests"} for _ in layers],
        }
    )


def _json(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, content: bytes, **more: Any) -> Json:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


def _parts(words: str, architecture: str) -> tuple[bytes, list[bytes]]:
    """Config and compressed layers of an image that prints `words`."""
    tars = [
        tar_of({"bin/busybox": (0o755, BUSYBOX.read_bytes())}),
        tar_of({"words.txt": (0o644, words.encode())}),
    ]
    config = _config(tars, architecture, ["/bin/busybox", "cat", "/words.txt"])
    return config, [gzip.compress(tar, 1, mtime=0) for tar in tars]


def schema2(directory: Path, words: str) -> Image:
    """A Docker schema 2 image, in skopeo's own `dir:` form: an OCI layout has no room for its types."""
    directory.mkdir()
    config, layers = _parts(words, ARCHITECTURE)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": SCHEMA2_MANIFEST,
            "config": _descriptor(SCHEMA2_CONFIG, config),
            "layers": [_descriptor(SCHEMA2_LAYER, layer) for layer in layers],
        }
    )
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(manifest)
    for blob in (config, *layers):
        (directory / digest_of(blob).partition(":")[2]).write_bytes(blob)
    blobs = {digest_of(blob): len(blob) for blob in (config, *layers)}
    return Image(f"dir:{directory}", digest_of(manifest), manifest, words, blobs)


class Layout:
    """An OCI image layout on disk (image-spec, Image Layout) to which images are added."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: list[Json] = []
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))

    def add_blob(self, media_type: str, content: bytes, **more: Any) -> Json:
        """Keeps the content and gives its descriptor."""
        (self._directory / "blobs" / "sha256" / digest_of(content).partition(":")[2]).write_bytes(content)
        return _descriptor(media_type, content, **more)

    def add_manifest(self, config: Json, layers: list[Json], **more: Any) -> tuple[Json, bytes]:
        manifest = _json(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more}
        )
        return self.add_blob(OCI_MANIFEST, manifest), manifest

    def tag(self, name: str, descriptor: Json) -> str:
        """Names a manifest; gives what skopeo calls it by."""
        annotations = {"org.opencontainers.image.ref.name": name}
        self._entries.append({**descriptor, "annotations": annotations})
        (self._directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": self._entries}))
        return f"oci:{self._directory}:{name}"

    def image(self, tag: str, words: str) -> Image:
        """One OCI image for this machine."""
        descriptor, manifest, blobs = self._image(words, ARCHITECTURE)
        return Image(self.tag(tag, descriptor), digest_of(manifest), manifest, words, blobs)

    def multi_arch(self, tag: str, words: str) -> Image:
        """An index for this machine's architecture and another one, with an attestation of the first
        as BuildKit adds it: a child for the platform unknown/unknown."""
        here, _, blobs = self._image(words, ARCHITECTURE)
        there, _, _ = self._image(words, "s390x")
        config = self.add_blob(OCI_CONFIG, _config([], "unknown", []))
        statement = _json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicate": {}})
        attestation, _ = self.add_manifest(config, [self.add_blob("application/vnd.in-toto+json", statement)])
        children = [
            {**here, "platform": {"architecture": ARCHITECTURE, "os": "linux"}},
            {**there, "platform": {"architecture": "s390x", "os": "linux"}},
            {
                **attestation,
                "platform": {"architecture": "unknown", "os": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": here["digest"],
                },
            },
        ]
        index = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
        source = self.tag(tag, self.add_blob(OCI_INDEX, index))
        digests = tuple(child["digest"] for child in children)
        return Image(source, digest_of(index), index, words, blobs, digests)

    def _image(self, words: str, architecture: str) -> tuple[Json, bytes, dict[str, int]]:
        config, layers = _parts(words, architecture)
        first = self.add_blob(OCI_CONFIG, config)
        rest = [self.add_blob(OCI_LAYER, layer) for layer in layers]
        descriptor, manifest = self.add_manifest(first, rest)
        return descriptor, manifest, {entry["digest"]: entry["size"] for entry in (first, *rest)}

    def files(self, tag: str, files: dict[str, tuple[int, bytes]], command: list[str]) -> str:
        """An OCI image whose second layer holds these files; gives what skopeo calls it by."""
        tars = [tar_of({"bin/busybox": (0o755, BUSYBOX.read_bytes())}), tar_of(files)]
        config = self.add_blob(OCI_CONFIG, _config(tars, ARCHITECTURE, command))
        layers = [self.add_blob(OCI_LAYER, gzip.compress(tar, 1, mtime=0)) for tar in tars]
        descriptor, _ = self.add_manifest(config, layers)
        return self.tag(tag, descriptor)

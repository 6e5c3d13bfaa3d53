"""A registry over a real socket with content and faults, on which the tests of the mirror stand.

    async with FakeUpstream() as up:
        digest = up.add_blob("library/box", b"layer")
        up.faults.append(Fault(("GET", "/blobs/"), cut_after(3), times=1))

What goes wrong is a `Fault` (`faults.py` has the actions). Everything a test waits for it waits for with
`wait_for_request` or `wait_until`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from entrepot.cache.digest import Digest
from entrepot.cache.media_type import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from fake_http import Content, FakeServer, Fault, Held, Reply, Seen, reply
from fake_reply import CHUNK
from fake_token_server import Basic, Bearer, FakeTokenServer, basic

__all__ = ["Basic", "Bearer", "FakeTokenServer", "FakeUpstream", "Fault", "Image", "Seen"]

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>[^/]+)")
_LAYER_TYPES = {
    OCI_MANIFEST: "application/vnd.oci.image.layer.v1.tar+gzip",
    DOCKER_MANIFEST: "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
_CONFIG_TYPES = {
    OCI_MANIFEST: "application/vnd.oci.image.config.v1+json",
    DOCKER_MANIFEST: "application/vnd.docker.container.image.v1+json",
}


@dataclass(frozen=True)
class Generated:
    """Content of any size that is made as it is read; the same seed gives the same bytes."""

    size: int
    seed: int = 0

    def read(self, start: int, end: int) -> Iterator[bytes]:
        base = random.Random(self.seed).randbytes(CHUNK)
        for number in range(start // CHUNK, -(-end // CHUNK)):
            block = number.to_bytes(8, "big") + base[8:]
            at = number * CHUNK
            yield block[max(0, start - at) : min(CHUNK, end - at)]

    def digest(self) -> Digest:
        running = hashlib.sha256()
        for piece in self.read(0, self.size):
            running.update(piece)
        return Digest("sha256", running.hexdigest())


@dataclass(frozen=True)
class Image:
    """What `add_image` and `add_index` made."""

    digest: Digest
    content: bytes
    """The manifest's."""
    media_type: str
    config: Digest | None = None
    layers: tuple[Digest, ...] = ()
    manifests: tuple[Image, ...] = ()
    """The children of an index."""


@dataclass
class _Repository:
    manifests: dict[Digest, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)


class Cdn(FakeServer):
    """The other origin that blobs are redirected to. A link is good if its query comes back as it was signed;
    it refuses an `Authorization`, as S3 does, and by default a HEAD, for which nothing was signed."""

    def __init__(self, blobs: dict[Digest, Content], *, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context)
        self._blobs = blobs
        self._links: set[str] = set()
        self._serial = itertools.count()
        self.refuses_head = True

    def link(self, digest: Digest) -> str:
        """A new signed link."""
        # Characters that a client that requotes would change: it then asks for what was not signed.
        signature = f"{next(self._serial)}%2Fa+b%3D~'(%20)"
        target = f"/{quote(str(digest))}?X-Amz-Signature={signature}&a%5Bb%5D=;:@"
        self._links.add(target)
        return self.url + target

    def expire_links(self) -> None:
        """What was signed so far is no longer good."""
        self._links.clear()

    def answer(self, seen: Seen) -> Reply:
        if seen.authorization is not None:
            return reply(400, b"<Error><Code>InvalidArgument</Code></Error>", "application/xml")
        if seen.target not in self._links or (seen.method == "HEAD" and self.refuses_head):
            return reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "application/xml")
        content = self._blobs[Digest.parse(seen.path.removeprefix("/"))]
        made = reply(200, media_type="application/octet-stream", Accept_Ranges="bytes")
        made.content, made.allow_range = content, True
        return made


class FakeUpstream(FakeServer):
    """The registry. `auth` is None, `Basic` or `Bearer`; a Bearer answers at `/token` here, or with
    `own_token_server` at an origin of its own. With `cdn`, blobs are redirected to one (`redirect_head`: also
    for HEAD). `negotiation` says what becomes of a tag whose type is not in `Accept`: served all the same, or
    refused and converted as distribution does."""

    def __init__(
        self,
        *,
        auth: Basic | Bearer | None = None,
        own_token_server: bool = False,
        cdn: bool = False,
        redirect_head: bool = False,
        negotiation: Literal["none", "distribution"] = "none",
        ssl_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(ssl_context=ssl_context, host=host)
        self.auth = auth
        self.repositories: dict[str, _Repository] = {}
        self.contents: dict[Digest, Content] = {}
        self.redirect_head = redirect_head
        self.negotiation = negotiation
        self.cdn = Cdn(self.contents, ssl_context=ssl_context) if cdn else None
        self.token_server = (
            FakeTokenServer(auth, ssl_context=ssl_context)
            if own_token_server and isinstance(auth, Bearer)
            else None
        )

    async def __aenter__(self) -> FakeUpstream:
        await super().__aenter__()
        for other in (self.cdn, self.token_server):
            if other is not None:
                await other.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for other in (self.token_server, self.cdn):
            if other is not None:
                await other.__aexit__(*exc)
        await super().__aexit__(*exc)

    # content

    def add_blob(self, repository: str, content: bytes) -> Digest:
        return self._add(repository, Digest.of(content), Held(content))

    def add_generated_blob(self, repository: str, size: int, seed: int = 0) -> Digest:
        """A blob of any size that takes no memory."""
        made = Generated(size, seed)
        return self._add(repository, made.digest(), made)

    def _add(self, repository: str, digest: Digest, content: Content) -> Digest:
        self.contents[digest] = content
        self._repository(repository).blobs.add(digest)
        return digest

    def add_manifest(self, repository: str, content: bytes, media_type: str, *tags: str) -> Digest:
        digest = Digest.of(content)
        held = self._repository(repository)
        held.manifests[digest] = (content, media_type)
        for tag in tags:
            held.tags[tag] = digest
        return digest

    def add_image(
        self,
        repository: str,
        *tags: str,
        layers: Sequence[bytes | Digest] = (b"a layer",),
        media_type: str = OCI_MANIFEST,
        config: dict[str, Any] | None = None,
    ) -> Image:
        """An image of OCI or Docker schema 2; a layer is its bytes, or the digest of an added blob."""
        made = [layer if isinstance(layer, Digest) else self.add_blob(repository, layer) for layer in layers]
        self._repository(repository).blobs.update(made)
        configured = config or {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}
        config_digest = self.add_blob(repository, json.dumps(configured).encode())
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": self._descriptor(config_digest, _CONFIG_TYPES[media_type]),
                "layers": [self._descriptor(layer, _LAYER_TYPES[media_type]) for layer in made],
            },
            indent=1,
        ).encode()
        digest = self.add_manifest(repository, content, media_type, *tags)
        return Image(digest, content, media_type, config_digest, tuple(made))

    def add_index(
        self, repository: str, *tags: str, images: Sequence[Image] = (), media_type: str = OCI_INDEX
    ) -> Image:
        """An index of images that were added before; without any, of two that are made here."""
        image_type = DOCKER_MANIFEST if media_type == DOCKER_LIST else OCI_MANIFEST
        platforms = ["amd64", "arm64", "s390x", "ppc64le", "riscv64"]
        children = tuple(images) or tuple(
            self.add_image(
                repository,
                layers=[f"{repository} {tags} {architecture}".encode()],
                media_type=image_type,
                config={"architecture": architecture, "os": "linux"},
            )
            for architecture in platforms[:2]
        )
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "manifests": [
                    {
                        "mediaType": child.media_type,
                        "digest": str(child.digest),
                        "size": len(child.content),
                        "platform": {"os": "linux", "architecture": architecture},
                    }
                    for child, architecture in zip(children, itertools.cycle(platforms), strict=False)
                ],
            },
            indent=1,
        ).encode()
        digest = self.add_manifest(repository, content, media_type, *tags)
        return Image(digest, content, media_type, manifests=children)

    def set_tag(self, repository: str, tag: str, digest: Digest) -> None:
        self._repository(repository).tags[tag] = digest

    def remove_tag(self, repository: str, tag: str) -> None:
        del self._repository(repository).tags[tag]

    def remove_manifest(self, repository: str, digest: Digest) -> None:
        """The manifest, and the tags that mean it."""
        held = self._repository(repository)
        del held.manifests[digest]
        held.tags = {tag: meant for tag, meant in held.tags.items() if meant != digest}

    def remove_blob(self, repository: str, digest: Digest) -> None:
        self._repository(repository).blobs.remove(digest)

    def content(self, digest: Digest) -> bytes:
        """The whole of a blob."""
        held = self.contents[digest]
        return b"".join(held.read(0, held.size))

    def set_password(self, new: str) -> None:
        """The old one is refused from now on; tokens that were given for it stay good until they end."""
        assert self.auth is not None
        self.auth.set_password(new)

    def _repository(self, name: str) -> _Repository:
        return self.repositories.setdefault(name, _Repository())

    def _descriptor(self, digest: Digest, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": str(digest), "size": self.contents[digest].size}

    # answers

    def answer(self, seen: Seen) -> Reply:
        if seen.path == "/token" and isinstance(self.auth, Bearer) and self.token_server is None:
            return self.auth.answer(seen)
        match = _ROUTE.fullmatch(seen.path)
        refusal = self._refuse(seen, match["name"] if match else None)
        if refusal is not None:
            return refusal
        if seen.path in ("/v2", "/v2/"):
            return self._signed(reply(200, b"{}"))
        if match is None or match["name"] not in self.repositories:
            return self._error(404, "NAME_UNKNOWN")
        held = self.repositories[match["name"]]
        kind, reference = match["kind"], match["reference"]
        if seen.method not in ("GET", "HEAD"):
            return self._error(405, "UNSUPPORTED")
        if kind == "manifests":
            return self._manifest(seen, held, reference)
        if kind == "blobs":
            return self._blob(seen, held, reference)
        if kind == "tags" and reference == "list":
            return self._tags(seen, match["name"], held)
        return self._error(404, "UNSUPPORTED")

    def _manifest(self, seen: Seen, held: _Repository, reference: str) -> Reply:
        by_tag = ":" not in reference
        digest = held.tags.get(reference) if by_tag else Digest.parse(reference)
        if digest is None or digest not in held.manifests:
            return self._error(404, "MANIFEST_UNKNOWN")
        content, media_type = held.manifests[digest]
        if by_tag and self.negotiation == "distribution" and media_type not in seen.accept:
            if media_type != DOCKER_LIST:
                return self._error(404, "MANIFEST_UNKNOWN")
            digest = Digest.parse(json.loads(content)["manifests"][0]["digest"])
            content, media_type = held.manifests[digest]
        made = reply(200, content, media_type, Docker_Content_Digest=str(digest), ETag=f'"{digest}"')
        return self._signed(made)

    def _blob(self, seen: Seen, held: _Repository, reference: str) -> Reply:
        digest = Digest.parse(reference)
        if digest not in held.blobs:
            return self._error(404, "BLOB_UNKNOWN")
        if self.cdn is not None and (seen.method == "GET" or self.redirect_head):
            return self._signed(reply(307, b"", "text/html", Location=self.cdn.link(digest)))
        made = reply(
            200,
            media_type="application/octet-stream",
            Docker_Content_Digest=str(digest),
            Accept_Ranges="bytes",
            ETag=f'"{digest}"',
        )
        made.content, made.allow_range = self.contents[digest], True
        return self._signed(made)

    def _tags(self, seen: Seen, name: str, held: _Repository) -> Reply:
        last = seen.query.get("last", [""])[0]
        tags = [tag for tag in sorted(held.tags) if tag > last]
        count = int(seen.query.get("n", [str(len(tags))])[0])
        made = reply(200, json.dumps({"name": name, "tags": tags[:count]}).encode())
        if 0 < count < len(tags):
            made.headers["Link"] = f'</v2/{name}/tags/list?last={tags[count - 1]}&n={count}>; rel="next"'
        return self._signed(made)

    def _refuse(self, seen: Seen, repository: str | None) -> Reply | None:
        if isinstance(self.auth, Basic):
            if seen.authorization == basic(self.auth.username, self.auth.password):
                return None
            return self._unauthorized(f'Basic realm="{self.auth.realm}"')
        if self.auth is None:
            return None
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        realm = self.token_server.realm if self.token_server else f"{self.url}/token"
        challenge = f'Bearer realm="{realm}",service="{self.auth.service}"{scope}'
        if repository is None:
            scheme, _, token = (seen.authorization or "").partition(" ")
            good = scheme == "Bearer" and token in self.auth.issued
            return None if good else self._unauthorized(challenge)
        error = self.auth.admits(seen, repository)
        if error is None and not (self.auth.hub_like and repository not in self.repositories):
            return None
        return self._unauthorized(challenge + (f',error="{error}"' if error else ""))

    def _unauthorized(self, challenge: str) -> Reply:
        made = self._error(401, "UNAUTHORIZED")
        made.headers["WWW-Authenticate"] = challenge
        return made

    def _error(self, status: int, code: str) -> Reply:
        body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]})
        return self._signed(reply(status, body.encode()))

    @staticmethod
    def _signed(made: Reply) -> Reply:
        made.headers["Docker-Distribution-API-Version"] = "registry/2.0"
        return made

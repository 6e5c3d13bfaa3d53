"""The main job: pull through, keep, serve again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from entrepot.cache.digest import Digest
from fake_upstream import FakeUpstream
from serving import serving

LAYER = bytes(range(256)) * 8192  # 2 MiB


async def test_an_image_is_pulled_once_and_served_for_ever(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        for _ in range(2):
            manifest = await it.get("/v2/library/box/manifests/1.0")
            assert manifest.status == 200
            assert manifest.body == image.content
            assert manifest.headers["Content-Type"] == image.media_type
            assert manifest.digest == str(image.digest)
            assert manifest.headers["ETag"] == f'"{image.digest}"'
            assert manifest.headers["Vary"] == "Accept"
            for digest in (image.config, *image.layers):
                blob = await it.get(f"/v2/library/box/blobs/{digest}")
                assert (blob.status, blob.digest) == (200, str(digest))
                assert digest is not None
                assert blob.body == up.content(digest)
                await it.landed(digest)
        assert up.count("GET", "/manifests/") == 1
        assert up.count("GET", "/blobs/") == 2
        again = await it.get(f"/v2/library/box/blobs/{image.layers[0]}")
        assert again.headers["Cache-Status"] == "entrepot; hit"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/library/box/manifests/1.0",
        "/v2/box/manifests/1.0",
        "/v2/docker.io/library/box/manifests/1.0",
        "/v2/docker.io/box/manifests/1.0",
        "/v2/index.docker.io/library/box/manifests/1.0",
        "/v2/hub/box/manifests/1.0",
        "/v2/library/box/manifests/1.0?ns=docker.io",
        "/v2/library/box/manifests/1.0?ns=registry-1.docker.io",
    ],
)
async def test_an_image_has_one_place_under_all_its_names(tmp_path: Path, path: str) -> None:
    async with (
        FakeUpstream() as up,
        serving(tmp_path, {"docker.io": {"url": up.url, "default": True, "prefix": "hub"}}) as it,
    ):
        up.add_image("library/box", "1.0")
        assert (await it.get(path)).status == 200
        assert up.seen("GET")[0].path == "/v2/library/box/manifests/1.0"


async def test_a_hundred_clients_share_one_download(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        digest = up.add_blob("library/box", LAYER)
        answers = await asyncio.gather(*(it.get(f"/v2/library/box/blobs/{digest}") for _ in range(100)))
        assert {Digest.of(answer.body) for answer in answers} == {digest}
        assert up.count("GET", "/blobs/") == 1
        assert up.bytes_sent == len(LAYER)


async def test_head_downloads_nothing(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        manifest = await it.head("/v2/library/box/manifests/1.0")
        assert (manifest.status, manifest.digest) == (200, str(image.digest))
        assert manifest.headers["Content-Length"] == str(len(image.content))
        blob = await it.head(f"/v2/library/box/blobs/{image.layers[0]}")
        assert (blob.status, blob.headers["Content-Length"]) == (200, str(len(LAYER)))
        assert up.count("GET") == 0
        assert up.bytes_sent == 0


async def test_ranges_of_what_is_not_here_yet(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        digest = up.add_blob("library/box", LAYER)
        path = f"/v2/library/box/blobs/{digest}"
        part = await it.get(path, Range="bytes=1000000-1000099")
        assert (part.status, part.body) == (206, LAYER[1000000:1000100])
        assert part.headers["Content-Range"] == f"bytes 1000000-1000099/{len(LAYER)}"
        end = await it.get(path, Range="bytes=-100")
        assert (end.status, end.body) == (206, LAYER[-100:])
        beyond = await it.get(path, Range=f"bytes={len(LAYER)}-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(LAYER)}")
        assert up.count("GET", "/blobs/") == 1


async def test_several_ranges_in_one_answer(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        digest = up.add_blob("library/box", LAYER)
        for _ in ("cold", "warm"):
            answer = await it.get(f"/v2/library/box/blobs/{digest}", Range="bytes=0-9,1000-1009,-5")
            assert answer.status == 206
            kind, _, boundary = answer.headers["Content-Type"].partition("; boundary=")
            assert kind == "multipart/byteranges"
            parts = answer.body.split(f"--{boundary}".encode())
            bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]]
            assert bodies == [LAYER[:10], LAYER[1000:1010], LAYER[-5:]]
            assert parts[-1] == b"--\r\n"
            await it.landed(digest)


async def test_conditional_requests(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        tag, layer = "/v2/library/box/manifests/1.0", f"/v2/library/box/blobs/{image.layers[0]}"
        await it.get(tag)
        await it.get(layer)
        for etag in (f'"{image.digest}"', str(image.digest), f'W/"{image.digest}"', "*"):
            assert (await it.get(tag, If_None_Match=etag)).status == 304
        assert (await it.get(tag, If_None_Match='"sha256:other"')).status == 200
        assert (await it.get(layer, If_None_Match=f'"{image.layers[0]}"')).status == 304
        part = await it.get(layer, Range="bytes=0-9", If_Range=f'"{image.layers[0]}"')
        assert part.status == 206
        whole = await it.get(layer, Range="bytes=0-9", If_Range='"other"')
        assert (whole.status, len(whole.body)) == (200, len(LAYER))


async def test_what_the_mirror_says_of_itself(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        up.add_image("library/box", "1.0")
        base = await it.get("/v2/")
        assert (base.status, base.body) == (200, b"{}")
        assert base.headers["Docker-Distribution-API-Version"] == "registry/2.0"
        miss = await it.get("/v2/library/box/manifests/1.0")
        assert miss.headers["Cache-Status"] == "entrepot; fwd=uri-miss; fwd-status=200; stored"
        hit = await it.get("/v2/library/box/manifests/1.0?ns=docker.io")
        assert hit.headers["Cache-Status"] == "entrepot; hit; ttl=60"
        assert hit.headers["Age"] == "0"
        assert hit.headers["OCI-Namespace"] == "docker.io"
        assert len({answer.headers["X-Request-Id"] for answer in (base, miss, hit)}) == 3


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/nvcr.io/org/img/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/localhost/img/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/host:5000/img/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/library/box/manifests/1?ns=nvcr.io", 404, "NAME_UNKNOWN"),
        ("/v2/library/box/manifests/1?ns=docker.io&ns=quay.io", 400, "NAME_INVALID"),
        ("/v2/library/box/manifests/1?ns=a%0d%0ab", 400, "NAME_INVALID"),
        ("/v2/library/box/manifests/1?ns=docker.io" + 99 * "&a=b", 400, "NAME_INVALID"),
        ("/v2/library/box/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/box/manifests/sha256:" + 64 * "0", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/box/blobs/sha256:" + 64 * "0", 404, "BLOB_UNKNOWN"),
        ("/v2/library/box/blobs/sha256%3A" + 64 * "0", 404, "BLOB_UNKNOWN"),
        ("/v2/library/box/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("/v2/library/box/blobs/nonsense", 400, "DIGEST_INVALID"),
        ("/v2/library/box/blobs/blake3:" + 64 * "0", 400, "DIGEST_INVALID"),
        ("/v2/library/Box/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/../box/manifests/1", 400, "NAME_INVALID"),
        ("/v2/../../etc/passwd/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library%2fbox/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/%2e%2e/box/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library//box/manifests/1", 400, "NAME_INVALID"),
        ("/v2/library/box/manifests/-bad", 400, "MANIFEST_INVALID"),
        ("/v2/library/box", 404, "UNSUPPORTED"),
        ("/elsewhere", 404, "UNSUPPORTED"),
    ],
)
async def test_what_is_refused(tmp_path: Path, path: str, status: int, code: str) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        up.add_image("library/box", "1.0")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(it.url.rpartition(":")[2]))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] == str(status).encode()
        assert f'"code": "{code}"'.encode() in body


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_nothing_is_written_to_a_mirrored_repository(tmp_path: Path, method: str) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        answer = await it.ask(method, "/v2/library/box/manifests/1.0")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED")
        assert answer.headers["Allow"] == "GET, HEAD"
        assert up.count() == 0


async def test_a_digest_is_served_as_what_it_is(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        await it.get("/v2/library/box/manifests/1.0")
        await it.get(f"/v2/library/box/blobs/{image.layers[0]}")
        wrong = await it.get(f"/v2/library/box/blobs/{image.digest}")
        assert (wrong.status, wrong.code) == (404, "BLOB_UNKNOWN")
        wrong = await it.get(f"/v2/library/box/manifests/{image.layers[0]}")
        assert (wrong.status, wrong.code) == (404, "MANIFEST_UNKNOWN")


async def test_a_repository_gives_out_only_its_own(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        secret = up.add_blob("library/private", LAYER)
        await it.get(f"/v2/library/private/blobs/{secret}")
        up.add_image("library/evil", "1.0", layers=[secret])
        up.remove_blob("library/evil", secret)
        await it.get("/v2/library/evil/manifests/1.0")
        up.forget()
        answer = await it.get(f"/v2/library/evil/blobs/{secret}")
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
        assert [(seen.method, seen.path) for seen in up.requests] == [
            ("HEAD", f"/v2/library/evil/blobs/{secret}")
        ]
        # Once the upstream says that the other repository has it too, it comes from what is held.
        honest = up.add_image("library/honest", "1.0", layers=[secret])
        await it.get("/v2/library/honest/manifests/1.0")
        answer = await it.get(f"/v2/library/honest/blobs/{honest.layers[0]}")
        assert answer.body == LAYER
        assert up.count("GET", "/blobs/") == 0

"""Laws of descriptors and manifests: whatever an upstream sends passes, or is refused by meaning."""

from __future__ import annotations

import json
from typing import Any

import pytest
from entrepot.cache.descriptor import Descriptor
from entrepot.cache.digest import Digest
from entrepot.cache.errors import CacheError, InvalidManifest, ManifestTooLarge
from entrepot.cache.manifest import SIZE_LIMIT, Manifest
from entrepot.cache.media_type import DOCKER_LIST, DOCKER_MANIFEST, MAIN_TYPES, OCI_INDEX, OCI_MANIFEST
from hypothesis import example, given
from hypothesis import strategies as st

digests = st.builds(Digest.of, st.binary(max_size=32), st.sampled_from(["sha256", "sha512"]))
main_types = st.sampled_from(MAIN_TYPES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


def described(digest: Digest, size: int, kind: str = OCI_MANIFEST) -> dict[str, Any]:
    return {"mediaType": kind, "digest": str(digest), "size": size}


class TestDescriptor:
    @given(digests, st.integers(0, 2**63 - 1), main_types)
    def test_reads_what_the_specification_asks_for(self, digest: Digest, size: int, kind: str) -> None:
        assert Descriptor.parse(described(digest, size, kind)) == Descriptor(kind, digest, size)

    @given(json_values)
    def test_anything_else_is_refused_by_meaning(self, value: Any) -> None:
        with pytest.raises(InvalidManifest):
            Descriptor.parse(value)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "mediaType": json_values | main_types,
                "digest": json_values | digests.map(str),
                "size": json_values,
            },
        )
    )
    def test_what_passes_can_be_kept_and_sent(self, value: Any) -> None:
        try:
            parsed = Descriptor.parse(value)
        except InvalidManifest:
            return
        assert 0 <= parsed.size < 2**63
        assert parsed.media_type.isascii()
        assert parsed.media_type.isprintable()

    @pytest.mark.parametrize("size", [-1, 2**63, 10**30, True, 1.0, "1", None])
    def test_refuses_sizes_that_are_none(self, size: object) -> None:
        with pytest.raises(InvalidManifest):
            Descriptor.parse({"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"")), "size": size})

    @pytest.mark.parametrize("kind", ["\ud800", "application/x\r\nSet-Cookie: a", "ä/b", 7, None])
    def test_refuses_types_that_are_none(self, kind: object) -> None:
        with pytest.raises(InvalidManifest):
            Descriptor.parse({"mediaType": kind, "digest": str(Digest.of(b"")), "size": 0})

    def test_a_type_that_is_missing_is_borne_with(self) -> None:
        digest = Digest.of(b"")
        assert Descriptor.parse({"digest": str(digest), "size": 0}) == Descriptor("", digest, 0)


class TestManifest:
    @given(digests, st.lists(digests, max_size=4), st.none() | digests)
    def test_an_image_names_config_and_layers_in_this_order(
        self, config: Digest, layers: list[Digest], subject: Digest | None
    ) -> None:
        value = {
            "schemaVersion": 2,
            "config": described(config, 1),
            "layers": [described(d, 2) for d in layers],
        }
        if subject is not None:
            value["subject"] = described(subject, 3)
        content = json.dumps(value).encode()
        manifest = Manifest.parse(content, f"{OCI_MANIFEST}; charset=utf-8")
        assert manifest.content == content
        assert manifest.media_type == OCI_MANIFEST
        assert [blob.digest for blob in manifest.blobs] == [config, *layers]
        assert manifest.manifests == ()
        assert (manifest.subject and manifest.subject.digest) == subject
        assert manifest.digest().matches(content)
        assert not manifest.is_index

    @given(st.lists(digests, max_size=4), st.sampled_from([OCI_INDEX, DOCKER_LIST]))
    def test_an_index_names_manifests(self, children: list[Digest], kind: str) -> None:
        content = json.dumps({"manifests": [described(d, 2) for d in children]}).encode()
        manifest = Manifest.parse(content, kind)
        assert [child.digest for child in manifest.manifests] == children
        assert manifest.is_index

    @given(
        st.dictionaries(
            st.sampled_from(["manifests", "config", "layers", "subject", "mediaType", "schemaVersion"]),
            json_values | st.lists(digests.map(lambda d: described(d, 1)) | json_values, max_size=3),
        ),
        st.sampled_from(["", *MAIN_TYPES, "application/vnd.example+json", "text/html"])
        | st.text(max_size=20),
    )
    @example({"mediaType": "application/x\r\nSet-Cookie: a=b"}, "")
    @example({"mediaType": "application/\ud800"}, "")
    def test_any_json_passes_or_is_refused_by_meaning(self, value: Any, kind: str) -> None:
        content = json.dumps(value).encode()
        try:
            manifest = Manifest.parse(content, kind)
        except InvalidManifest:
            return
        assert manifest.content == content
        assert manifest.media_type.startswith("application/")
        # It is sent as a header, and kept in the index.
        assert manifest.media_type.isascii()
        assert manifest.media_type.isprintable()
        assert " " not in manifest.media_type

    @given(st.binary(max_size=64))
    @example(b"[" * 100_000)
    @example(b'{"a":' * 100_000)
    @example(b'{"size":' + b"9" * 5000 + b"}")
    @example(b"\xff\xfe")
    @example(b"<html>")
    @example(b"null")
    def test_any_bytes_pass_or_are_refused_by_meaning(self, content: bytes) -> None:
        try:
            manifest = Manifest.parse(content, OCI_MANIFEST)
        except CacheError:
            return
        assert manifest.content == content

    def test_names_that_cannot_be_read_are_left_out(self) -> None:
        good = Digest.of(b"good")
        layers = [
            {"digest": "md5:" + "a" * 32, "size": 1},
            None,
            7,
            described(good, 1),
            described(good, 2**64),
        ]
        content = json.dumps({"config": [], "layers": layers, "manifests": {"a": 1}, "subject": "x"}).encode()
        manifest = Manifest.parse(content, OCI_MANIFEST)
        assert [blob.digest for blob in manifest.blobs] == [good]
        assert manifest.manifests == ()
        assert manifest.subject is None

    def test_the_type_inside_serves_where_the_upstream_lost_it(self) -> None:
        content = json.dumps({"mediaType": DOCKER_MANIFEST}).encode()
        assert Manifest.parse(content, "text/plain").media_type == DOCKER_MANIFEST
        with pytest.raises(InvalidManifest):
            Manifest.parse(b"{}", "text/plain")

    def test_schema_1_is_known_as_such(self) -> None:
        kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        assert Manifest.parse(b"{}", kind).is_schema_1

    def test_the_limit_is_four_mebibytes(self) -> None:
        padded = b'{"a":"' + b"x" * (SIZE_LIMIT - 8) + b'"}'
        assert Manifest.parse(padded, OCI_MANIFEST).content is padded
        with pytest.raises(ManifestTooLarge):
            Manifest.parse(padded + b" ", OCI_MANIFEST)

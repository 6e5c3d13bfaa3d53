"""Laws of the field's nouns: digest, reference, media type."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from entrepot.cache import media_type, reference
from entrepot.cache.digest import Digest, Verifier
from entrepot.cache.errors import InvalidDigest, InvalidReference
from entrepot.cache.media_type import DOCKER_MANIFEST, MAIN_TYPES, OCI_INDEX, OCI_MANIFEST
from entrepot.cache.reference import Image, Repository
from hypothesis import given
from hypothesis import strategies as st

algorithms = st.sampled_from(["sha256", "sha512"])
digests = st.builds(Digest.of, st.binary(max_size=32), algorithms)
components = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True).filter(
    lambda text: len(text) < 40
)
names = st.lists(components, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)


class TestDigest:
    @given(digests)
    def test_parse_reads_what_str_writes(self, digest: Digest) -> None:
        assert Digest.parse(str(digest)) == digest

    @given(
        st.text() | st.from_regex(r"sha(256|512):[a-f0-9]{0,130}") | st.from_regex(r"[a-z0-9+._-]+:[\w=-]+")
    )
    def test_whatever_parses_is_written_back_the_same(self, text: str) -> None:
        try:
            digest = Digest.parse(text)
        except InvalidDigest:
            return
        assert str(digest) == text
        assert len(bytes.fromhex(digest.encoded)) == hashlib.new(digest.algorithm).digest_size

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "sha256",
            "sha256:",
            ":" + "a" * 64,
            "sha256:" + "a" * 63,
            "sha256:" + "a" * 65,
            "sha256:" + "A" * 64,
            "sha256:" + "g" * 64,
            "sha256:" + "a" * 64 + "\n",
            "sha256:" + "٣" * 64,
            "sha256: " + "a" * 63,
            "sha512:" + "a" * 64,
            "SHA256:" + "a" * 64,
            "md5:" + "a" * 32,
            "sha256+b64:" + "a" * 64,
            "../../sha256:" + "a" * 64,
        ],
    )
    def test_refuses(self, text: str) -> None:
        with pytest.raises(InvalidDigest):
            Digest.parse(text)

    @given(digests, digests)
    def test_the_order_is_that_of_the_text(self, one: Digest, other: Digest) -> None:
        assert (one < other) == (str(one) < str(other))

    @given(st.binary(max_size=64), st.binary(max_size=64), algorithms)
    def test_matches_its_content_alone(self, content: bytes, other: bytes, algorithm: str) -> None:
        digest = Digest.of(content, algorithm)
        assert digest.matches(content)
        assert digest.matches(other) == (other == content)

    @given(st.lists(st.binary(max_size=16), max_size=8), algorithms)
    def test_a_verifier_hashes_in_pieces_as_in_one(self, pieces: list[bytes], algorithm: str) -> None:
        content = b"".join(pieces)
        verifier = Verifier(Digest.of(content, algorithm))
        for piece in pieces:
            verifier.update(memoryview(piece))
        assert verifier.offset == len(content)
        assert verifier.verified()
        verifier.update(b"x")
        assert not verifier.verified()


class TestReference:
    @given(names)
    def test_names_of_the_grammar_pass(self, name: str) -> None:
        assert reference.check_name(name) == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a_-b",
            "a___b",
            "a..b",
            "-a",
            "a-",
            ".a",
            "..",
            "a/../b",
            "a%2fb",
            "a b",
            "a\n",
            "a:b",
            "a@b",
            "ä",
            "a" * 256,
        ],
    )
    def test_names_against_the_grammar_do_not(self, name: str) -> None:
        with pytest.raises(InvalidReference):
            reference.check_name(name)

    @pytest.mark.parametrize(
        "tag", ["", "-a", ".a", "a" * 129, "a/b", "a:b", "a@b", "a b", "a\n", "ä", "a#b"]
    )
    def test_tags_against_the_grammar_do_not(self, tag: str) -> None:
        with pytest.raises(InvalidReference):
            reference.check_tag(tag)

    @given(tags | digests)
    def test_a_reference_is_a_tag_or_a_digest(self, value: str | Digest) -> None:
        assert reference.parse_reference(str(value)) == value

    @given(st.text())
    def test_anything_else_is_refused_by_meaning(self, text: str) -> None:
        try:
            value = reference.parse_reference(text)
        except InvalidReference:
            return
        assert str(value) == text

    @given(components, names, tags | digests)
    def test_an_image_is_split_as_it_was_written(self, upstream: str, name: str, value: str | Digest) -> None:
        image = Image(Repository(upstream, name), value)
        assert reference.split_image(str(image)) == (f"{upstream}/{name}", value)

    @given(names, tags, digests)
    def test_the_digest_wins_over_the_tag(self, name: str, tag: str, digest: Digest) -> None:
        assert reference.split_image(f"{name}:{tag}@{digest}") == (name, digest)

    @given(names)
    def test_no_tag_is_latest_and_a_port_is_no_tag(self, name: str) -> None:
        assert reference.split_image(name) == (name, "latest")
        assert reference.split_image(f"localhost:5000/{name}") == (f"localhost:5000/{name}", "latest")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":latest",
            "nginx:",
            "nginx@",
            "nginx:latest@",
            "nginx:@sha256:" + "a" * 64,
            "nginx:bad tag@sha256:" + "a" * 64,
            "nginx@latest",
            "nginx@sha256:short",
            "docker.io/",
            "nginx:a:b",
            "@sha256:" + "a" * 64,
        ],
    )
    def test_refuses_images(self, text: str) -> None:
        with pytest.raises(InvalidReference):
            reference.split_image(text)

    @given(st.text())
    def test_splitting_raises_nothing_else(self, text: str) -> None:
        try:
            name, value = reference.split_image(text)
        except InvalidReference:
            return
        assert text.startswith(name)
        assert name
        assert reference.parse_reference(str(value)) == value


main_types = st.sampled_from(MAIN_TYPES)
subsets = st.sets(main_types, min_size=1)


def as_lines(types: list[str], together: bool) -> list[str]:
    """An `Accept` as one line or as several: both mean the same (RFC 9110, 5.3)."""
    return [", ".join(types)] if together else types


class TestVariant:
    @given(subsets, main_types, st.booleans(), st.randoms())
    def test_is_the_set_of_types_taken_unless_the_stored_one_is_among_them(
        self, taken: set[str], stored: str, together: bool, random: Any
    ) -> None:
        order = sorted(taken)
        random.shuffle(order)
        found = media_type.variant(as_lines(order, together), stored)
        if stored in taken:
            assert found == media_type.MAIN_VARIANT
        else:
            assert set(media_type.variant_types(found)) == taken

    @given(st.integers(1, 15), main_types)
    def test_of_its_own_types_is_itself(self, number: int, stored: str) -> None:
        types = media_type.variant_types(number)
        assert media_type.variant(types, stored) == (media_type.MAIN_VARIANT if stored in types else number)

    @given(st.lists(st.text(max_size=30) | main_types, max_size=6), st.text(max_size=20) | main_types)
    def test_there_are_at_most_fifteen_beside_the_main_one(self, accept: list[str], stored: str) -> None:
        assert 0 <= media_type.variant(accept, stored) <= 15

    @pytest.mark.parametrize(
        "accept",
        [
            [],
            [""],
            ["*/*"],
            ["application/*"],
            ["application/json"],
            ["text/html, */*;q=0.1"],
            [DOCKER_MANIFEST, "*/*"],
            [OCI_INDEX],
            [OCI_INDEX.upper() + " ; q=0.5"],
            [f"{DOCKER_MANIFEST},{OCI_INDEX}"],
        ],
    )
    def test_the_main_one_is_for_who_takes_it_or_says_nothing(self, accept: list[str]) -> None:
        assert media_type.variant(accept, OCI_INDEX) == media_type.MAIN_VARIANT

    @pytest.mark.parametrize(
        "accept",
        [
            [f"{OCI_INDEX};q=0, {OCI_MANIFEST}"],
            [f"{OCI_INDEX}; q=0.000", OCI_MANIFEST],
            [f"{OCI_MANIFEST}, */*;Q=0"],
        ],
    )
    def test_what_is_given_no_weight_is_not_taken(self, accept: list[str]) -> None:
        found = media_type.variant(accept, OCI_INDEX)
        assert media_type.variant_types(found) == (OCI_MANIFEST,)

    def test_an_unlisted_stored_type_has_no_variants(self) -> None:
        assert media_type.variant([OCI_MANIFEST], "application/vnd.example+json") == media_type.MAIN_VARIANT

    def test_the_main_one_asks_for_all_types(self) -> None:
        assert media_type.variant_types(media_type.MAIN_VARIANT) == MAIN_TYPES

    @given(main_types, st.sampled_from(["", ";charset=utf-8", " ; q=1", ";"]))
    def test_bare_forgets_parameters_and_case(self, name: str, parameters: str) -> None:
        assert media_type.bare(f" {name.title()}{parameters}") == name

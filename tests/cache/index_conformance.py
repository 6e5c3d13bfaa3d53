"""What every index must do, by the contract in `entrepot.cache.index`.

A test class derives from `IndexConformance` and gives a fixture `index`: an empty one that goes by its
`clock`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.digest import Digest
from entrepot.cache.index import BlobRow, Index, Kind, Link, Negative, TagEntry, TagKey, Totals

from .index_laws import IndexLaws
from .index_samples import NOW, blob_row, collected, content, settle, tag_entry


class IndexConformance(IndexLaws):
    """Derive from this, and give `index`."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(NOW)

    @pytest.fixture
    async def index(self, clock: ManualClock) -> Index:
        raise NotImplementedError

    # tags

    async def test_a_tag_that_was_never_put_is_none(self, index: Index) -> None:
        assert await index.tag(TagKey("docker.io/library/nginx", "latest")) is None
        await index.drop_tag(TagKey("docker.io/library/nginx", "latest"))

    @pytest.mark.parametrize(
        "entry",
        [
            tag_entry(),
            tag_entry(failed_at=NOW + 1.25, failure="registry-1.docker.io: 503"),
            tag_entry(gone_at=NOW + 2.5),
            tag_entry(main=content("main")),
            tag_entry(digest=Digest.of(b"", "sha512"), size=0, first_seen_at=0.0),
            tag_entry(failure='a line\nwith "quotes", ümlauts, \x00 and \ud800'),
        ],
    )
    async def test_a_tag_comes_back_as_it_was_put(self, index: Index, entry: TagEntry) -> None:
        key = TagKey("docker.io/library/nginx", "latest", 3)
        await index.put_tag(key, entry)
        assert await index.tag(key) == entry

    async def test_the_last_put_counts_and_variants_are_apart(self, index: Index) -> None:
        main, variant = TagKey("quay.io/a/b", "v1"), TagKey("quay.io/a/b", "v1", 5)
        await index.put_tag(main, tag_entry("old"))
        await index.put_tag(variant, tag_entry("variant"))
        await index.put_tag(main, tag_entry("new"))
        assert await index.tag(main) == tag_entry("new")
        assert await index.tag(variant) == tag_entry("variant")
        await index.drop_tag(main)
        assert await index.tag(main) is None
        assert await index.tag(variant) == tag_entry("variant")

    async def test_a_prefix_is_no_pattern(self, index: Index) -> None:
        for name in ("a_b", "a%b", "axb", "A_b", "a_bc", "a\U0010ffffb", "a[x]b", "a*b"):
            await index.put_tag(TagKey(name, "t"), tag_entry(name))
        for prefix, names in {
            "a_b": ["a_b", "a_bc"],
            "a%": ["a%b"],
            "a\U0010ffff": ["a\U0010ffffb"],
            "a[": ["a[x]b"],
            "a*": ["a*b"],
            "A": ["A_b"],
        }.items():
            walked = sorted(key.repository for key, _ in await collected(index.walk_tags(prefix)))
            assert walked == names

    async def test_many_tags_are_walked_once_each_and_a_walk_may_be_left(self, index: Index) -> None:
        keys = [TagKey(f"docker.io/library/many-{number:04}", "latest") for number in range(1203)]
        for key in keys:
            await index.put_tag(key, tag_entry())
        assert [key async for key, _ in index.walk_tags()] == keys
        walk = index.walk_tags()
        async for key, _ in walk:
            assert key == keys[0]
            break
        await walk.aclose()  # type: ignore[attr-defined]  # an asynchronous generator in practice
        await index.put_tag(keys[0], tag_entry("new"))
        assert (await index.totals()).tags == len(keys)

    # links

    async def test_a_link_that_was_never_put_is_none(self, index: Index) -> None:
        assert await index.link("docker.io/library/nginx", content("x"), "blob") is None
        assert await index.links_of(content("x")) == ()
        await index.drop_links("docker.io/library/nginx", [content("x")])
        await index.drop_links("docker.io/library/nginx", [])
        await index.put_links([])

    async def test_the_kinds_and_repositories_are_apart(self, index: Index) -> None:
        digest = content("layer")
        link = Link("docker.io/a", digest, "blob", True, "application/a", 7, content("parent"))
        await index.put_links([link])
        assert await index.link("docker.io/a", digest, "blob") == link
        assert await index.link("docker.io/a", digest, "manifest") is None
        assert await index.link("docker.io/b", digest, "blob") is None

    # the graph

    async def test_children_come_in_the_order_of_the_manifest(self, index: Index) -> None:
        parent, subject = content("parent"), content("subject")
        children = [content("child", number) for number in (3, 1, 2)]
        await index.put_children(parent, [*children, children[0]], subject)
        assert await index.children(parent) == tuple(children)
        assert await index.referrers(subject) == (parent,)
        for child in children:
            assert await index.parents(child) == (parent,)

    async def test_children_are_replaced_and_a_subject_is_no_child(self, index: Index) -> None:
        parent, subject = content("parent"), content("subject")
        await index.put_children(parent, [content("a"), content("b")], subject)
        await index.put_children(parent, [content("b"), content("c")], None)
        assert await index.children(parent) == (content("b"), content("c"))
        assert await index.parents(content("a")) == ()
        assert await index.parents(subject) == ()
        assert await index.referrers(subject) == ()

    async def test_every_parent_and_referrer_is_found(self, index: Index) -> None:
        parents = sorted((content("parent", number) for number in range(5)), key=str)
        for parent in parents:
            await index.put_children(parent, [content("shared"), content("own", parent)], content("subject"))
        assert sorted(await index.parents(content("shared")), key=str) == parents
        assert sorted(await index.referrers(content("subject")), key=str) == parents
        assert await index.children(content("shared")) == ()

    # blobs

    async def test_a_dropped_blob_forgets_what_it_names_and_not_who_has_it(self, index: Index) -> None:
        row = blob_row("manifest", kind="manifest")
        link = Link("docker.io/a", row.digest, "manifest", True)
        await index.put_blob(row)
        await index.put_links([link])
        await index.put_children(row.digest, [content("layer")], content("subject"))
        await index.put_children(content("index"), [row.digest], None)
        await index.drop_blob(row.digest)
        await index.drop_blob(row.digest)
        assert await index.blob(row.digest) is None
        assert await index.children(row.digest) == ()
        assert await index.parents(content("layer")) == ()
        assert await index.referrers(content("subject")) == ()
        assert await index.link("docker.io/a", row.digest, "manifest") == link
        assert await index.parents(row.digest) == (content("index"),)

    async def test_a_touch_is_seen_at_once_by_who_made_it(self, index: Index) -> None:
        row = blob_row("layer")
        await index.put_blob(row)
        assert await index.blob(row.digest) == row
        await index.touch({row.digest: NOW + 5, content("unknown"): NOW + 5})
        assert await index.blob(row.digest) == dataclasses.replace(row, used_at=NOW + 5)
        await settle(index)
        await index.touch({row.digest: NOW + 1})
        await settle(index)
        assert await index.blob(row.digest) == dataclasses.replace(row, used_at=NOW + 5)
        assert await index.blob(content("unknown")) is None

    async def test_a_large_batch_of_touches_is_written_whole(self, index: Index) -> None:
        digests = [content("touched", number) for number in range(2500)]
        for digest in digests[::500]:
            await index.put_blob(BlobRow(digest, 1, NOW, NOW))
        await index.touch(dict.fromkeys(digests, NOW + 9))
        await settle(index)
        assert [row.used_at async for row in index.walk_blobs()] == [NOW + 9] * 5

    async def test_blobs_are_walked_in_order(self, index: Index) -> None:
        rows = [blob_row(number, size=number) for number in range(1101)]
        rows.append(BlobRow(Digest.of(b"", "sha512"), 3, NOW, NOW))
        for row in rows:
            await index.put_blob(row)
        rows.sort(key=lambda row: str(row.digest))
        assert await collected(index.walk_blobs()) == rows
        middle = str(rows[500].digest)
        assert await collected(index.walk_blobs(middle)) == rows[501:]
        assert await collected(index.walk_blobs(middle[:-1])) == rows[500:]
        assert await collected(index.walk_blobs("sha256:zz")) == rows[-1:]
        assert await collected(index.walk_blobs(str(rows[-1].digest))) == []

    async def test_totals_are_the_sums(self, index: Index) -> None:
        assert await index.totals() == Totals(0, 0, 0, 0, 0)
        for number in range(20):
            kind: Kind = "manifest" if number % 3 == 0 else "blob"
            await index.put_blob(blob_row(number, size=number, kind=kind))
            await index.put_tag(TagKey("docker.io/a", f"v{number}"), tag_entry())
        await index.put_tag(TagKey("docker.io/a", "v1"), tag_entry("again"))
        await index.put_negative("tag:docker.io/a:v99", Negative("404", NOW, NOW + 10))
        await index.put_blob(blob_row(3, size=1000, kind="blob"))
        await index.put_blob(blob_row(4, size=1000, kind="manifest"))
        await index.drop_blob(content(5))
        await index.drop_tag(TagKey("docker.io/a", "v2"))
        rows = await collected(index.walk_blobs())
        manifests = [row for row in rows if row.kind == "manifest"]
        assert await index.totals() == Totals(
            19, sum(row.size for row in rows), len(manifests), sum(row.size for row in manifests), 19
        )

    # refusals

    async def test_a_negative_lasts_until_its_time_by_the_clock_given(
        self, index: Index, clock: ManualClock
    ) -> None:
        negative = Negative("404 from registry-1.docker.io", NOW, NOW + 10)
        assert await index.negative("tag:docker.io/a:v1") is None
        await index.put_negative("tag:docker.io/a:v1", negative)
        assert await index.negative("tag:docker.io/a:v1") == negative
        clock.advance(9.75)
        assert await index.negative("tag:docker.io/a:v1") == negative
        clock.advance(0.25)
        assert await index.negative("tag:docker.io/a:v1") is None

    async def test_a_negative_put_again_lasts_anew(self, index: Index, clock: ManualClock) -> None:
        await index.put_negative("a", Negative("404", NOW, NOW + 1))
        clock.advance(2)
        assert await index.negative("a") is None
        again = Negative("404", clock.wall(), clock.wall() + 1)
        await index.put_negative("a", again)
        assert await index.negative("a") == again

    async def test_a_negative_that_is_over_already_is_none(self, index: Index) -> None:
        await index.put_negative("a", Negative("404", NOW - 20, NOW - 10))
        assert await index.negative("a") is None
        await index.put_negative("b", Negative("404", NOW, NOW))
        assert await index.negative("b") is None

    async def test_negatives_are_dropped_by_prefix(self, index: Index) -> None:
        def keys(example: str) -> list[str]:
            return [f"tag:docker.io/{example}:{number}" for number in range(700 if example == "a_b" else 3)]

        for example in ("a_b", "axb", "a_", "a_c"):
            for key in keys(example):
                await index.put_negative(key, Negative(key, NOW, NOW + 10))
        await index.drop_negatives("tag:docker.io/a_b")
        for key in keys("a_b"):
            assert await index.negative(key) is None
        for key in (*keys("axb"), *keys("a_"), *keys("a_c")):
            assert await index.negative(key) is not None
        await index.drop_negatives("")
        assert await index.negative("tag:docker.io/axb:0") is None

    # what changed

    async def test_every_write_changes_its_generation_and_no_read_does(self, index: Index) -> None:
        key, digest, repository = TagKey("docker.io/a", "v1"), content("layer"), "docker.io/a"
        row = BlobRow(digest, 10, NOW, NOW)
        link = Link(repository, digest, "blob", False)
        negative = Negative("404", NOW, NOW + 10)
        place = f"{repository}@{digest}"
        writes: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            (str(key), lambda: index.put_tag(key, tag_entry())),
            (str(key), lambda: index.put_tag(key, tag_entry("moved"))),
            (str(key), lambda: index.drop_tag(key)),
            (place, lambda: index.put_links([link])),
            (place, lambda: index.put_links([dataclasses.replace(link, proved=True)])),
            (place, lambda: index.drop_links(repository, [digest])),
            (str(digest), lambda: index.put_blob(row)),
            (str(digest), lambda: index.drop_blob(digest)),
            ("tag:a", lambda: index.put_negative("tag:a", negative)),
            ("tag:a", lambda: index.drop_negatives("tag:")),
        ]
        seen: set[tuple[str, int]] = set()
        for name, write in writes:
            seen.add((name, index.generation(name)))
            await write()
            assert (name, index.generation(name)) not in seen

        names = {name for name, _ in writes}
        before = {name: index.generation(name) for name in names}
        await index.tag(key)
        await index.link(repository, digest, "blob")
        await index.blob(digest)
        await index.negative("tag:a")
        await index.totals()
        await collected(index.walk_tags())
        await index.touch({digest: NOW})
        await settle(index)
        assert {name: index.generation(name) for name in names} == before

"""Laws of an index, tried against plain dictionaries.

Each example has repositories and digests of its own, so that one index serves them all.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

from entrepot.cache.digest import Digest
from entrepot.cache.index import BlobRow, Index, Kind, Link, TagKey, Totals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .index_samples import KINDS, collected, content, settle, tag_entry

_examples = itertools.count()

law = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # examples share an index, and have content of their own in it
        HealthCheck.differing_executors,  # every class that derives from these runs them by itself
        HealthCheck.too_slow,
    ],
)

numbers = st.integers(0, 3)
kinds = st.sampled_from(KINDS)
sizes = st.none() | st.integers(0, 2**63 - 1)
times = st.floats(0, 4e9, allow_nan=False)
media_types = st.sampled_from(["", "application/vnd.oci.image.manifest.v1+json", "application/a"])


@dataclass(frozen=True)
class PutLink:
    repository: int
    digest: int
    kind: Kind
    proved: bool
    media_type: str
    size: int | None
    named_by: int | None


@dataclass(frozen=True)
class DropLinks:
    repository: int
    digests: list[int]


put_link = st.builds(
    PutLink, st.integers(0, 1), numbers, kinds, st.booleans(), media_types, sizes, st.none() | numbers
)
link_steps = st.lists(
    st.lists(put_link, max_size=4) | st.builds(DropLinks, st.integers(0, 1), st.lists(numbers, max_size=2)),
    max_size=12,
)


@dataclass(frozen=True)
class Touch:
    used: dict[int, float]


@dataclass(frozen=True)
class PutBlob:
    digest: int
    size: int
    fetched_at: float
    used_at: float
    kind: Kind


@dataclass(frozen=True)
class DropBlob:
    digest: int


blob_steps = st.lists(
    st.builds(PutBlob, numbers, st.integers(0, 2**40), times, times, kinds)
    | st.builds(DropBlob, numbers)
    | st.builds(Touch, st.dictionaries(numbers, times, max_size=4)),
    max_size=16,
)


@dataclass
class LinkModel:
    """The law of `put_links`, said a second time and in other words than `Link.renewed_by`."""

    held: dict[tuple[str, Digest, Kind], Link] = field(default_factory=dict)

    def put(self, link: Link) -> None:
        place = (link.repository, link.digest, link.kind)
        old = self.held.get(place)
        if old is None:
            self.held[place] = link
            return
        new_is_as_good = link.proved or not old.proved
        media_type = (link.media_type if new_is_as_good else "") or old.media_type or link.media_type
        size = link.size if new_is_as_good and link.size is not None else old.size
        self.held[place] = dataclasses.replace(
            link,
            proved=old.proved or link.proved,
            media_type=media_type,
            size=link.size if size is None else size,
            named_by=link.named_by if old.named_by is None else old.named_by,
        )


class IndexLaws:
    """Part of `IndexConformance`."""

    @law
    @given(
        st.sets(st.tuples(st.sampled_from(["a", "a/b", "a-b", "b", "a.b"]), st.sampled_from("vwx"), numbers)),
        st.sets(st.integers(0, 5), max_size=2),
        st.data(),
    )
    async def test_tags_are_walked_in_order(
        self,
        index: Index,
        given_keys: set[tuple[str, str, int]],
        dropped: set[int],
        data: st.DataObject,
    ) -> None:
        base = f"localhost:5000/walk-{next(_examples)}/"
        keys = [TagKey(base + name, tag, variant) for name, tag, variant in sorted(given_keys)]
        for key in keys:
            await index.put_tag(key, tag_entry(key))
        for number in dropped:
            if number < len(keys):
                await index.drop_tag(keys[number])
        held = sorted((key for number, key in enumerate(keys) if number not in dropped), key=str)
        assert await collected(index.walk_tags(base)) == [(key, tag_entry(key)) for key in held]

        prefix = base + data.draw(st.sampled_from(["", "a", "a:", "a/", "a-b:v", "c", "a_", "a%"]))
        after = data.draw(st.sampled_from(["", base, base + "a:w#1", base + "b", "z", *map(str, held)]))
        expected = [key for key in held if str(key).startswith(prefix) and str(key) > after]
        assert [key async for key, _ in index.walk_tags(prefix, after)] == expected

    @law
    @given(link_steps)
    async def test_links_follow_their_law(self, index: Index, steps: list[list[PutLink] | DropLinks]) -> None:
        example = next(_examples)
        repositories = [f"docker.io/links-{example}/a", f"docker.io/links-{example}/b"]
        digests = [content("links", example, number) for number in range(4)]
        places = list(itertools.product(repositories, digests, KINDS))
        model = LinkModel()
        for step in steps:
            if isinstance(step, DropLinks):
                gone = {digests[number] for number in step.digests}
                await index.drop_links(repositories[step.repository], (digests[n] for n in step.digests))
                for place in places:
                    if place[0] == repositories[step.repository] and place[1] in gone:
                        model.held.pop(place, None)
            else:
                links = [
                    Link(
                        repositories[put.repository],
                        digests[put.digest],
                        put.kind,
                        put.proved,
                        put.media_type,
                        put.size,
                        None if put.named_by is None else digests[put.named_by],
                    )
                    for put in step
                ]
                was_proved = {place for place, link in model.held.items() if link.proved}
                await index.put_links(iter(links))
                for link in links:
                    model.put(link)
                for place in was_proved:
                    found = await index.link(*place)
                    assert found is not None
                    assert found.proved, "a proved link was made a claimed one"
            for place in places:
                assert await index.link(*place) == model.held.get(place)
        for digest in digests:
            expected = {link for link in model.held.values() if link.digest == digest}
            found_links = await index.links_of(digest)
            assert set(found_links) == expected
            assert len(found_links) == len(expected)

    @law
    @given(blob_steps)
    async def test_blobs_follow_their_law(
        self, index: Index, steps: list[PutBlob | DropBlob | Touch]
    ) -> None:
        example = next(_examples)
        digests = [content("blobs", example, number) for number in range(4)]
        model: dict[Digest, BlobRow] = {}
        before = await index.totals()
        for step in steps:
            if isinstance(step, PutBlob):
                digest = digests[step.digest]
                row = BlobRow(digest, step.size, step.fetched_at, step.used_at, step.kind)
                await index.put_blob(row)
                old = model.get(digest)
                used_at = row.used_at if old is None else max(row.used_at, old.used_at)
                model[digest] = dataclasses.replace(row, used_at=used_at)
            elif isinstance(step, DropBlob):
                await settle(index)  # what is still collected would be lost with the row
                await index.drop_blob(digests[step.digest])
                model.pop(digests[step.digest], None)
            else:
                used = {digests[number]: at for number, at in step.used.items()}
                await settle(index)
                await index.touch(used)
                await settle(index)
                for digest, at in used.items():
                    if digest in model:
                        latest = max(at, model[digest].used_at)
                        model[digest] = dataclasses.replace(model[digest], used_at=latest)
            for digest in digests:
                assert await index.blob(digest) == model.get(digest)
        expected = Totals(
            before.blobs + len(model),
            before.bytes + sum(row.size for row in model.values()),
            before.manifests + sum(row.kind == "manifest" for row in model.values()),
            before.manifest_bytes + sum(row.size for row in model.values() if row.kind == "manifest"),
            before.tags,
        )
        assert await index.totals() == expected
        for digest in model:  # or the next example's sums run over 63 bits
            await index.drop_blob(digest)
        assert await index.totals() == before

"""What a tag means: the table of docs/design.md, 'what happens', for requests by tag."""

from __future__ import annotations

import math
from dataclasses import replace

from entrepot.cache.digest import Digest
from entrepot.cache.errors import (
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
)
from entrepot.cache.index import TagEntry, TagKey
from entrepot.cache.media_type import MAIN_VARIANT, SCHEMA_1_TYPES, bare, variant, variant_types
from entrepot.cache.reference import Repository
from entrepot.cache.revalidation import Judgement, Rules, Verdict, judge

from ..errors import NotHere
from .collapse import Asking, answering_within
from .manifests import SCHEMA_1, Kept, Manifests
from .memory import Memory, negative_key
from .outcome import HEAD, OFFLINE, Outcome
from .parts import ManifestAnswer, Parts, Pull, Upstream

_STALE_WARNING = '299 - "served stale: {}"'


class Tags:
    """Manifests by tag."""

    def __init__(self, parts: Parts, memory: Memory, manifests: Manifests) -> None:
        self._parts = parts
        self._memory = memory
        self._manifests = manifests

    async def get(self, pull: Pull, tag: str) -> ManifestAnswer:
        """A manifest by tag, in the variant that the client's `Accept` asks for. Raises a `SourceError`, or
        `NotHere` where nobody may be asked."""
        answer = await self._get(pull, TagKey(str(pull.repository), tag), None)
        wanted = variant(pull.accept, answer.media_type)
        if wanted == MAIN_VARIANT:
            return answer
        return await self._get(pull, TagKey(str(pull.repository), tag, wanted), answer.digest)

    async def refresh(self, upstream: Upstream, repository: Repository, tag: str) -> TagEntry:
        """Asks now, whatever is remembered, and keeps the manifest. Raises a `SourceError`."""
        key = TagKey(str(repository), tag)
        await self._memory.drop_negatives(negative_key("manifest", str(repository), f"{tag}#"))
        pull = Pull(upstream, repository, head=False, arrived_at=math.inf)
        question = self._parts.collapse.ask(f"refresh:{key}", lambda: self._question(pull, key, None))
        return await question.answer()

    async def _get(self, pull: Pull, key: TagKey, main: Digest | None) -> ManifestAnswer:
        parts, upstream = self._parts, pull.upstream
        entry = await self._memory.tag(key)
        kept = None if entry is None else await self._manifests.kept(pull.repository, entry.digest)
        rules = self._rules(upstream, key.tag)
        if upstream.offline:
            if entry is None or kept is None or (entry.gone_at is not None and not rules.serve_gone):
                raise NotHere("manifest")
            return self._answer(pull, entry, kept, OFFLINE)
        # Has the main entry moved since this variant was resolved, the variant is stale at once.
        outdated = entry is not None and entry.main != main
        judgement = judge(entry, rules, parts.clock.wall(), pull.arrived_at, outdated=outdated)
        usable = judgement.usable and kept is not None

        if entry is not None and judgement.verdict is Verdict.FRESH:
            return await self._fresh(pull, entry, kept, judgement)
        if entry is not None and kept is not None and usable:
            if judgement.verdict is Verdict.BEHIND:
                self._ask(pull, key, main)
                return self._stale(pull, entry, kept, entry.failure or "the upstream fails", None)
            if judgement.verdict is Verdict.STALE:
                return self._stale(pull, entry, kept, entry.failure or "the upstream deleted it", None)
        if entry is not None and judgement.verdict in (Verdict.GONE, Verdict.FAILED, Verdict.STALE):
            if entry.gone_at is not None:
                raise SourceMissing(entry.failure or "the upstream deleted this tag")
            raise SourceUnavailable(entry.failure or "the upstream fails")
        if judgement.verdict is Verdict.MISS:
            await self._manifests.refuse_if_remembered(_negative_key(key))

        asking = self._ask(pull, key, main)
        try:
            if usable:
                answered = await asking.answer_within(upstream.config.timeout.revalidate)
            else:
                answered = await asking.answer()
        except (SourceError, TimeoutError) as error:
            if entry is None or kept is None:
                raise
            return self._instead(pull, entry, kept, error, judgement)
        return await self._asked(pull, answered, asking, stale=entry is not None)

    # answers

    def _answer(self, pull: Pull, entry: TagEntry, kept: Kept, outcome: Outcome) -> ManifestAnswer:
        content = None if pull.head else kept.held.body
        return ManifestAnswer(entry.digest, kept.media_type, kept.held.size, content, outcome)

    async def _fresh(
        self, pull: Pull, entry: TagEntry, kept: Kept | None, judgement: Judgement
    ) -> ManifestAnswer:
        age = max(0.0, self._parts.clock.wall() - entry.confirmed_at)
        if kept is not None:
            return self._answer(pull, entry, kept, Outcome("hit", ttl=judgement.fresh_for, age=age))
        if pull.head:
            outcome = replace(HEAD, forwarded=None, name="hit", forwarded_status=None, age=age)
            return ManifestAnswer(entry.digest, entry.media_type, entry.size, None, outcome)
        # Named by an earlier HEAD, so that this GET gets what that one promised.
        return await self._manifests.get(pull, entry.digest)

    async def _asked(
        self, pull: Pull, entry: TagEntry, asking: Asking[TagEntry], *, stale: bool
    ) -> ManifestAnswer:
        kept = await self._manifests.kept(pull.repository, entry.digest)
        if kept is None and pull.head:
            return ManifestAnswer(entry.digest, entry.media_type, entry.size, None, HEAD)
        outcome = Outcome(
            "joined" if asking.joined else "revalidated" if stale else "miss",
            forwarded="stale" if stale else "uri-miss",
            forwarded_status=200,
            stored=kept is not None and not stale,
            collapsed=asking.joined,
            age=0.0,
        )
        if kept is None:  # there was no room for it anywhere
            return replace(await self._manifests.get(pull, entry.digest), outcome=outcome)
        return self._answer(pull, entry, kept, outcome)

    def _instead(
        self,
        pull: Pull,
        entry: TagEntry,
        kept: Kept,
        error: SourceError | TimeoutError,
        judgement: Judgement,
    ) -> ManifestAnswer:
        """What is held, where the upstream's answer allows it. Raises that answer where not."""
        config = pull.upstream.config
        match error:
            case SourceMissing() if config.on_gone == "obey":
                raise error
            case SourceRefused() if config.on_denied == "obey":
                raise error
            case SourceError() if not judgement.usable and not isinstance(error, SourceMissing):
                raise error
            case SourceError():
                return self._stale(pull, entry, kept, error.detail, error)
            case _:
                return self._stale(pull, entry, kept, "the upstream is slow to answer", None)

    def _stale(
        self, pull: Pull, entry: TagEntry, kept: Kept, reason: str, error: SourceError | None
    ) -> ManifestAnswer:
        label = {SourceLimited: "limited", SourceMissing: "gone", SourceRefused: "refused"}
        self._parts.observer.served_stale(pull.upstream.name, label.get(type(error), "failing"))
        outcome = Outcome(
            "stale",
            forwarded="stale",
            forwarded_status=None if error is None else error.answer,
            age=max(0.0, self._parts.clock.wall() - entry.confirmed_at),
            detail="stale-if-error",
            warning=_STALE_WARNING.format(reason.replace("\\", "").replace('"', "'")[:400]),
        )
        return self._answer(pull, entry, kept, outcome)

    def _rules(self, upstream: Upstream, tag: str) -> Rules:
        config = upstream.config
        return Rules(
            config.tag_ttl.of(tag), config.negative_ttl, config.stale_if_error, config.on_gone == "serve"
        )

    # asking

    def _ask(self, pull: Pull, key: TagKey, main: Digest | None) -> Asking[TagEntry]:
        """The question what the tag means now: one at a time for all processes. Outlives who asked."""
        name = f"tag:{key}:{'head' if pull.head else 'get'}"
        return self._parts.collapse.ask(name, lambda: self._question(pull, key, main))

    async def _question(self, pull: Pull, key: TagKey, main: Digest | None) -> TagEntry:
        parts = self._parts
        asked_at = pull.arrived_at
        async with parts.leases.lease(f"tag:{key}"):
            entry = await self._memory.tag(key)
            if entry is not None and entry.main == main:  # another process may have asked meanwhile
                if entry.gone_at is not None and entry.gone_at >= asked_at:
                    raise SourceMissing(entry.failure or "the upstream deleted this tag")
                if entry.failed_at is not None and entry.failed_at >= asked_at:
                    raise SourceUnavailable(entry.failure or "the upstream fails")
                if entry.confirmed_at >= asked_at:
                    return entry
            try:
                async with answering_within(pull.upstream.config.timeout.answer, pull.upstream.name):
                    answered = await self._resolve(pull, key, entry, main)
            except SourceError as error:
                await self._remember(pull.upstream, key, entry, error)
                raise
            await self._memory.put_tag(key, answered)
            result = "new" if entry is None else "unchanged" if entry.digest == answered.digest else "moved"
            parts.observer.revalidated(pull.upstream.name, result)
            return answered

    async def _resolve(
        self, pull: Pull, key: TagKey, entry: TagEntry | None, main: Digest | None
    ) -> TagEntry:
        """Asks by HEAD, which costs no pull; and gets a manifest only where one is needed and not held."""
        client, name = pull.upstream.client, pull.repository.name
        types = variant_types(key.variant)
        if entry is None and not pull.head:
            return await self._get_by_tag(pull, key, None, main)
        head = await client.head_manifest(name, key.tag, types)
        media_type = bare(head.media_type)
        if media_type in SCHEMA_1_TYPES:
            raise SourceMissing(SCHEMA_1)
        if head.digest is None:
            return await self._get_by_tag(pull, key, entry, main)
        kept = await self._manifests.kept(pull.repository, head.digest)
        was_kept = entry and await self._manifests.kept(pull.repository, entry.digest)
        if kept is None and (was_kept or not pull.head):
            try:
                kept = await self._manifests.fetch(pull.upstream, pull.repository, head.digest)
            except SourceLimited:
                raise
            except SourceError as error:
                # By HEAD the tag is there: what its digest then answers says nothing of the tag.
                unavailable = SourceUnavailable(f"the tag has moved to {head.digest}, but: {error.detail}")
                unavailable.answer = error.answer
                raise unavailable from error
        size = kept.held.size if kept else head.size or 0
        return self._entry(entry, head.digest, kept.media_type if kept else media_type, size, main)

    async def _get_by_tag(
        self, pull: Pull, key: TagKey, entry: TagEntry | None, main: Digest | None
    ) -> TagEntry:
        types = variant_types(key.variant)
        fetched = await pull.upstream.client.get_manifest(pull.repository.name, key.tag, types)
        digest = Digest.of(fetched.content) if fetched.digest is None else fetched.digest
        kept = await self._manifests.keep(pull.repository, digest, fetched.content, fetched.media_type)
        return self._entry(entry, digest, kept.media_type, kept.held.size, main)

    def _entry(
        self, before: TagEntry | None, digest: Digest, media_type: str, size: int, main: Digest | None
    ) -> TagEntry:
        now = self._parts.clock.wall()
        same = before is not None and before.digest == digest
        first_seen_at = before.first_seen_at if before is not None and same else now
        return TagEntry(digest, media_type, size, first_seen_at, confirmed_at=now, main=main)

    async def _remember(
        self, upstream: Upstream, key: TagKey, entry: TagEntry | None, error: SourceError
    ) -> None:
        """A no and a failure are remembered, so that an outage costs one wait and not one a pull."""
        now = self._parts.clock.wall()
        result = {SourceMissing: "gone", SourceRefused: "refused", SourceLimited: "limited"}
        self._parts.observer.revalidated(upstream.name, result.get(type(error), "failed"))
        if isinstance(error, SourceMissing):
            if entry is None:
                await self._manifests.remember_missing(upstream, _negative_key(key), error)
            else:
                gone = replace(entry, gone_at=now, failed_at=None, failure=error.detail)
                await self._memory.put_tag(key, gone)
        elif entry is not None and not (
            isinstance(error, SourceRefused) and upstream.config.on_denied == "obey"
        ):
            await self._memory.put_tag(key, replace(entry, failed_at=now, failure=error.detail))


def _negative_key(key: TagKey) -> str:
    return negative_key("manifest", key.repository, f"{key.tag}#{key.variant}")

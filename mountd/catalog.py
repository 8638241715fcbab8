"""Names and attributes of one alias, remembered for as long as its `ttl` allows.

One `Catalog` wraps one `Store`. It relies on the store being stateless and on trio's clock.
Invariants: an answer is at most `ttl_s` old, except while the store is unreachable, when what was known
stays known (unreachable is not deleted); one request per question is under way at a time; what is kept is
bounded in entries, whatever the size of the tree.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import trio
from cachetools import LRUCache

from aliasfs.errors import AliasfsError, NotFound, StoreTimeout, StoreUnavailable
from aliasfs.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

UNREACHABLE_VALIDITY_S = 1.0
"""How long an outdated answer is trusted while its store is away: short, so that recovery is seen at once."""

LIST_AFTER_MISSES = 3
"""Unknown names asked for in one directory before it is listed whole: two round trips lost at most, and a
loader that walks a directory by name then pays one LIST per 1,000 files and no HEAD."""

MAX_LISTINGS = 1024
"""Listings kept at once, whatever their size."""

ABANDONED_AFTER_S = 300.0
"""A listing that nobody has pulled for so long will not be read to its end."""

LIST_AHEAD_PAGES = 20
"""A directory of more pages than this is not listed only to answer a lookup: 20,000 names of S3."""


class Known(NamedTuple):
    """What is known of a name: *info* is None when it is known not to exist. *expires_at* is in trio's time."""

    info: ObjectInfo | None
    expires_at: float


class Listing:
    """The entries of one directory, growing page by page as readers ask for more.

    Pages are pulled by whoever needs them, one at a time, so a slow reader holds back the store and a
    directory of any size is never asked for faster than it is read.
    """

    def __init__(self, pages: AsyncIterator[Sequence[ObjectInfo]], expires_at: float) -> None:
        self.expires_at = expires_at
        self.entries: list[ObjectInfo] = []
        self.by_name: dict[str, ObjectInfo] = {}
        self.complete = False
        self.failure: Exception | None = None
        self.pulled_at = trio.current_time()
        self._pages = pages
        self._pulling = trio.Lock()

    async def ensure(self, count: int) -> bool:
        """Wait until *count* entries are here or the end is reached; say whether they are here.

        A checkpoint only when a page has to be fetched. Raises what `Store.list` raises, to everyone who
        waits and who comes later: a listing with a `failure` is of no further use.
        """
        while len(self.entries) < count and not self.complete:
            async with self._pulling:
                if len(self.entries) < count and not self.complete:
                    await self._pull()
        return len(self.entries) >= count

    async def _pull(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.failure = StoreUnavailable("the listing was broken off; list the directory again")
        try:
            page = await anext(self._pages)
        except StopAsyncIteration:
            self.complete = True
        except Exception as exc:
            self.failure = exc
            raise
        else:
            self.entries += page
            self.by_name.update((info.name, info) for info in page)
        self.failure = None
        self.pulled_at = trio.current_time()

    async def aclose(self) -> None:
        """Stop a listing that nobody will read to its end."""
        if not self.complete:
            self.failure = StoreUnavailable("the listing was broken off; list the directory again")
        close = getattr(self._pages, "aclose", None)
        if close is not None:
            async with self._pulling:
                await close()


@dataclass(frozen=True)
class CatalogStatistics:
    """Counts since the start: questions answered from memory, put to the store, and served though outdated."""

    hits: int
    stats: int
    lists: int
    served_unreachable: int


@dataclass(frozen=True)
class CatalogSettings:
    """Limits of one alias' memory of names."""

    max_entries: int = 200_000
    """Names kept, about 400 bytes each."""
    list_ahead: bool = True
    """Whether lookups may list the directory; off for local data, where a stat costs no round trip."""


class Catalog:
    """Answers for names in one alias."""

    def __init__(self, store: Store, ttl_s: float, settings: CatalogSettings | None = None) -> None:
        self._store = store
        self._settings = settings or CatalogSettings()
        self.ttl_s = ttl_s
        self._known: LRUCache[str, Known] = LRUCache(self._settings.max_entries)
        self._listings: OrderedDict[str, Listing] = OrderedDict()
        self._asking: dict[str, trio.Event] = {}
        self._misses: LRUCache[str, int] = LRUCache(MAX_LISTINGS)
        self._hits = self._stats = self._lists = self._served_unreachable = 0

    def statistics(self) -> CatalogStatistics:
        """Return the counts so far."""
        return CatalogStatistics(self._hits, self._stats, self._lists, self._served_unreachable)

    async def stat(self, key: str) -> Known:
        """Return what *key* is, and until when that may be trusted.

        A checkpoint only when the store has to be asked; concurrent questions share one request unless
        `ttl_s` is 0. Raises what `Store.stat` raises, but for NotFound, which is an answer (`info` None).
        """
        if self.ttl_s <= 0:
            return await self._stat_store(key)
        while True:
            known = self.stat_nowait(key)
            if known is not None:
                self._hits += 1
                return known
            asking = self._asking.get(key)
            if asking is None:
                return await self._ask(key)
            await asking.wait()

    def stat_nowait(self, key: str) -> Known | None:
        """Return what is known of *key* and still valid, or None when the store has to be asked."""
        now = trio.current_time()
        known = self._known.get(key)
        if known is not None and now < known.expires_at:
            return known
        parent, _, name = key.rpartition("/")
        listing = self._listings.get(parent) if key else None
        if listing is None or now >= listing.expires_at:
            return None
        info = listing.by_name.get(name)
        if info is None and not listing.complete:
            return None
        return Known(info, listing.expires_at)

    async def _ask(self, key: str) -> Known:
        self._asking[key] = done = trio.Event()
        try:
            if await self._listed_instead(key):
                known = self.stat_nowait(key)
                if known is not None:
                    return known
            return await self._stat_store(key)
        finally:
            del self._asking[key]
            done.set()

    async def _stat_store(self, key: str) -> Known:
        asked_at = trio.current_time()
        self._stats += 1
        try:
            info: ObjectInfo | None = await self._store.stat(key)
        except NotFound:
            info = None
        except (StoreUnavailable, StoreTimeout):
            info = self._outdated(key)
            if info is None:
                raise
            self._served_unreachable += 1
            return Known(info, trio.current_time() + UNREACHABLE_VALIDITY_S)
        known = self._known[key] = Known(info, asked_at + self.ttl_s)
        return known

    def _outdated(self, key: str) -> ObjectInfo | None:
        """Return what was last known of *key*, however old."""
        known = self._known.get(key)
        if known is not None:
            return known.info
        parent, _, name = key.rpartition("/")
        listing = self._listings.get(parent) if key else None
        return listing.by_name.get(name) if listing is not None else None

    async def _listed_instead(self, key: str) -> bool:
        """List the directory of *key* when enough of its names have been asked for; say whether it was done."""
        if not self._settings.list_ahead or not key:
            return False
        parent = key.rpartition("/")[0]
        misses = self._misses[parent] = self._misses.get(parent, 0) + 1
        if misses < LIST_AFTER_MISSES:
            return False
        try:
            listing = await self.listing(parent)
            for _ in range(LIST_AHEAD_PAGES):
                if listing.complete:
                    return True
                await listing.ensure(len(listing.entries) + 1)
        except AliasfsError as exc:
            log.debug("listing %r of %s ahead of lookups: %s", parent, self._store.target, exc)
        return False

    async def listing(self, key: str) -> Listing:
        """Return the listing of the directory *key*: a valid one that is here or on its way, or a new one.

        A new one has its first page, so that NotFound and NotADirectory come from here. While the store is
        unreachable an outdated complete listing is returned.
        """
        now = trio.current_time()
        old = self._listings.get(key)
        if old is not None and old.failure is None and now < old.expires_at:
            self._listings.move_to_end(key)
            await old.ensure(1)
            return old
        listing = self._listings[key] = Listing(aiter(self._store.list(key)), now + self.ttl_s)
        self._listings.move_to_end(key)
        self._lists += 1
        try:
            await listing.ensure(1)
        except AliasfsError as exc:
            self._take_back(key, listing, old)
            if old is None or not old.complete or not isinstance(exc, StoreUnavailable | StoreTimeout):
                raise
            self._served_unreachable += 1
            return old
        await self._trim()
        return listing

    def _take_back(self, key: str, listing: Listing, old: Listing | None) -> None:
        """Put the *old* listing, if there was one, back in the place of one that failed at its first page."""
        if self._listings.get(key) is listing:
            del self._listings[key]
            if old is not None and old.complete:
                self._listings[key] = old

    async def _trim(self) -> None:
        """Drop the least recently used listings over the limits, and close those that nobody reads."""
        now = trio.current_time()
        entries = sum(len(listing.entries) for listing in self._listings.values())
        for key, listing in list(self._listings.items())[:-1]:
            abandoned = not listing.complete and now - listing.pulled_at > ABANDONED_AFTER_S
            over = entries > self._settings.max_entries or len(self._listings) > MAX_LISTINGS
            if not (abandoned or listing.failure or (over and listing.complete)):
                continue
            if self._listings.pop(key, None) is listing:
                entries -= len(listing.entries)
                if not listing.complete:
                    await listing.aclose()

    def set_ttl(self, ttl_s: float) -> None:
        """Trust answers for *ttl_s* seconds from now on; what is known under the old rule is asked again."""
        self.ttl_s = ttl_s
        self._known.clear()
        for listing in self._listings.values():
            listing.expires_at = trio.current_time()

    def forget(self, key: str) -> None:
        """Forget what is known of *key* and of the listing it stands in: the next question asks the store."""
        self._known.pop(key, None)
        listing = self._listings.get(key.rpartition("/")[0])
        if listing is not None:
            listing.expires_at = trio.current_time()

    async def aclose(self) -> None:
        """End listings under way."""
        while self._listings:
            _, listing = self._listings.popitem()
            if not listing.complete:
                await listing.aclose()

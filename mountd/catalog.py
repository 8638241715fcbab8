"""Names and attributes of one alias, remembered for as long as its `ttl` allows.

One `Catalog` wraps one `Store`. It relies on the store being stateless and on trio's clock.
Invariants: an answer is at most `ttl_s` old, except while the store is unreachable, when what was known
stays known (unreachable is not deleted); one request per question is under way at a time; what is kept is
bounded in entries, whatever the size of the tree.
"""

from __future__ import annotations

import copy
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
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
    """What is known of a name: *info* is None when it is known not to exist. Times are trio's."""

    info: ObjectInfo | None
    asked_at: float
    expires_at: float


@dataclass(eq=False)
class _Question:
    """A request that is under way; *known* or *failure* is set when it is *done*, neither when it was given up."""

    done: trio.Event = field(default_factory=trio.Event)
    known: Known | None = None
    failure: AliasfsError | None = None


class Listing:
    """The entries of one directory, growing page by page as readers ask for more.

    Pages are pulled by whoever needs them, one at a time, so a slow reader holds back the store and a
    directory of any size is never asked for faster than it is read. *fallback* is an older, complete listing,
    kept until this one is complete.
    """

    def __init__(
        self, pages: AsyncIterator[Sequence[ObjectInfo]], ttl_s: float, fallback: Listing | None = None
    ) -> None:
        self.listed_at = trio.current_time()
        self.expires_at = self.listed_at + ttl_s
        self.fallback = fallback
        self.entries: list[ObjectInfo] = []
        self.names: list[bytes] = []
        self.by_name: dict[str, ObjectInfo] = {}
        self.complete = False
        self.failure: Exception | None = None
        self.pages_pulled = 0
        self.pulled_at = self.listed_at
        self._pages = pages
        self._pulling = trio.Lock()
        self._request = trio.CancelScope()

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
        failure: Exception | None = StoreUnavailable("the listing was broken off; list the directory again")
        page: Sequence[ObjectInfo] | None = ()
        try:
            with trio.CancelScope() as self._request:
                page = await anext(self._pages, None)
                failure = None
        except Exception as exc:
            failure = exc
            raise
        finally:
            self.failure = failure  # only now: one that is under way has not failed
        if failure is not None:
            raise failure
        self.pulled_at = trio.current_time()
        if page is None:
            self.complete = True
            self.fallback = None
            return
        self.pages_pulled += 1
        names = [info.name for info in page]
        self.entries += page
        self.names += map(os.fsencode, names)
        self.by_name.update(zip(names, page, strict=True))

    def is_abandoned(self) -> bool:
        """Say whether nobody will read this listing to its end."""
        return not self.complete and trio.current_time() - self.pulled_at > ABANDONED_AFTER_S

    async def aclose(self) -> None:
        """Stop a listing that nobody will read to its end; a request under way is given up."""
        if not self.complete:
            self.failure = StoreUnavailable("the listing was broken off; list the directory again")
        self._request.cancel()
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
        self._replaced: list[Listing] = []
        self._asking: dict[str, _Question] = {}
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
            asked = self._asking.get(key)
            if asked is None:
                return await self._ask(key)
            await asked.done.wait()
            if asked.failure is not None:
                raise copy.copy(asked.failure) from asked.failure
            if asked.known is not None:
                return asked.known

    def stat_nowait(self, key: str) -> Known | None:
        """Return what is known of *key* and still valid, or None when the store has to be asked."""
        known = self._remembered(key)
        return known if known is not None and trio.current_time() < known.expires_at else None

    def _remembered(self, key: str) -> Known | None:
        """Return the newest that is known of *key*, however old; None when nothing is."""
        known = self._known.get(key)
        parent, _, name = key.rpartition("/")
        listing = self._listings.get(parent) if key else None
        if listing is None or (known is not None and known.asked_at >= listing.listed_at):
            return known
        info = listing.by_name.get(name)
        if info is None and not listing.complete:
            return known
        return Known(info, listing.listed_at, listing.expires_at)

    async def _ask(self, key: str) -> Known:
        asked = self._asking[key] = _Question()
        try:
            known = self.stat_nowait(key) if await self._listed_instead(key) else None
            asked.known = known or await self._stat_store(key)
            return asked.known
        except AliasfsError as exc:
            asked.failure = exc
            raise
        finally:
            del self._asking[key]
            asked.done.set()

    async def _stat_store(self, key: str) -> Known:
        asked_at = trio.current_time()
        self._stats += 1
        try:
            info: ObjectInfo | None = await self._store.stat(key)
        except NotFound:
            info = None
        except (StoreUnavailable, StoreTimeout):
            outdated = self._remembered(key)
            if outdated is None or outdated.info is None:
                raise
            self._served_unreachable += 1
            return outdated._replace(expires_at=trio.current_time() + UNREACHABLE_VALIDITY_S)
        known = self._known[key] = Known(info, asked_at, asked_at + self.ttl_s)
        return known

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
            while not listing.complete and listing.pages_pulled < LIST_AHEAD_PAGES:
                await listing.ensure(len(listing.entries) + 1)
        except AliasfsError as exc:
            log.debug("listing %r of %s ahead of lookups: %s", parent, self._store.target, exc)
            return False
        return listing.complete

    async def listing(self, key: str) -> Listing:
        """Return the listing of the directory *key*: a valid one that is here or on its way, or a new one.

        A new one has its first page, so that NotFound and NotADirectory come from here. While the store is
        unreachable an outdated complete listing is returned.
        """
        listing = self._listings.get(key)
        if listing is None or listing.failure is not None or trio.current_time() >= listing.expires_at:
            listing = self._list_anew(key, listing)
        self._listings.move_to_end(key)
        try:
            await listing.ensure(1)
        except AliasfsError as exc:
            old = listing.fallback
            if self._listings.get(key) is listing:
                del self._listings[key]
                if old is not None:
                    self._listings[key] = old
            if old is None or not isinstance(exc, StoreUnavailable | StoreTimeout):
                raise
            self._served_unreachable += 1
            return old
        await self._trim()
        return listing

    def _list_anew(self, key: str, old: Listing | None) -> Listing:
        """Begin a listing in the place of *old*, which those who read it may read on."""
        fallback = old if old is None or old.complete else old.fallback
        if old is not None and not old.complete:
            self._replaced.append(old)
        self._lists += 1
        listing = self._listings[key] = Listing(aiter(self._store.list(key)), self.ttl_s, fallback)
        return listing

    async def _trim(self) -> None:
        """Drop the least recently used listings over the limits, and close those that nobody reads."""
        done = [listing for listing in self._replaced if listing.complete or listing.failure or listing.is_abandoned()]
        self._replaced = [listing for listing in self._replaced if listing not in done]
        entries = sum(len(listing.entries) for listing in self._listings.values())
        for key, listing in list(self._listings.items())[:-1]:
            over = entries > self._settings.max_entries or len(self._listings) > MAX_LISTINGS
            if listing.is_abandoned() or listing.failure or (over and listing.complete):
                del self._listings[key]
                entries -= len(listing.entries)
                done.append(listing)
        for listing in done:
            if not listing.complete:
                await listing.aclose()

    def set_ttl(self, ttl_s: float) -> None:
        """Trust answers for *ttl_s* seconds from now on; what is known under the old rule is asked again."""
        self.ttl_s = ttl_s
        for key, known in list(self._known.items()):
            self._known[key] = known._replace(expires_at=trio.current_time())
        for listing in self._listings.values():
            listing.expires_at = trio.current_time()

    def forget(self, key: str) -> None:
        """Trust no longer what is known of *key* and of the listing it stands in: the next question asks the store.

        While the store is unreachable it is still the best that is known.
        """
        known = self._known.get(key)
        if known is not None:
            self._known[key] = known._replace(expires_at=trio.current_time())
        listing = self._listings.get(key.rpartition("/")[0])
        if listing is not None:
            listing.expires_at = trio.current_time()

    def shed(self) -> int:
        """Forget the names that were asked for and the complete listings; return how many entries that were.

        Readers of a listing keep it until they are at its end.
        """
        complete = [key for key, listing in self._listings.items() if listing.complete]
        entries = len(self._known) + sum(len(self._listings.pop(key).entries) for key in complete)
        self._known = LRUCache(self._settings.max_entries)
        return entries

    async def aclose(self) -> None:
        """End listings under way."""
        closing = [*self._replaced, *self._listings.values()]
        self._replaced.clear()
        self._listings.clear()
        for listing in closing:
            if not listing.complete:
                await listing.aclose()

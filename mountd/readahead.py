"""Reading ahead: which bytes will be asked for next (pure), and the `Content` that fetches them in time.

`ReadAheadPolicy` sees every read of every object version and recognises sequential streams among them. It keeps
no state per open file, because none is ever told to us: a stream is an object and a position in it. The kernel sends
two or three reads at once and in any order, so "sequential" means "close to where a stream is".

Invariants: the tables are bounded; a window never reaches beyond the object; together the windows of all active
streams stay within `ahead_bytes`, so that one reader's future does not push out another's. `ReadAhead` fetches
through the cache, never round it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from typing_extensions import Buffer

from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId
from mountd.blocks import CachedContent

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class ReadAheadSettings:
    """Sizes in bytes, each default with its reason."""

    whole_bytes: int = MIB
    """Objects up to this size are fetched whole at the first read: a second request would cost more than the bytes."""

    first_bytes: int = MIB
    """The first window: a reader that stops after a header has cost one small request in vain."""

    ahead_bytes: int = 64 * MIB
    """All windows together: 16 requests of `step_bytes` under way, which is 1 GB/s at 20 ms and 100 MB/s each."""

    step_bytes: int = 4 * MIB
    """A window is extended when so much of it has been used up; also the size of a request of a running stream."""

    objects: int = 256
    """Object versions whose streams are remembered."""

    streams: int = 4
    """Streams remembered in one object: readers of one file at different places."""

    active_reads: int = 64
    """A stream without a read among this many (of all streams) has no share of `ahead_bytes`."""

    near_bytes: int = 64 * KIB
    """A gap that is never a seek, however small the reads; larger reads tolerate twice their own length."""

    far_bytes: int = 2 * MIB
    """A gap that is always a seek: beyond the three reads of 1 MiB that the kernel sends at once."""


@dataclass(slots=True, eq=False)
class _Stream:
    """A reader at *position*; all up to *ahead* has been asked for; the next window is *window_bytes*."""

    position: int
    ahead: int
    window_bytes: int
    seen: int


class ReadAheadPolicy:
    """Recognises streams and says what to fetch next; pure, and shared by all aliases, as the memory is."""

    def __init__(self, settings: ReadAheadSettings | None = None) -> None:
        self.settings = settings or ReadAheadSettings()
        self._objects: OrderedDict[ObjectId, list[_Stream]] = OrderedDict()
        self._reads = 0

    def __len__(self) -> int:
        """Return how many object versions are remembered."""
        return len(self._objects)

    def observe(self, oid: ObjectId, extent: Extent) -> Extent | None:
        """Note that *extent* is being read; return what to fetch besides, None for nothing."""
        self._reads += 1
        if oid.size <= self.settings.whole_bytes:
            return Extent(0, oid.size)
        streams = self._streams_of(oid)
        stream = next((s for s in streams if self._continues(s, extent)), None)
        if stream is None:
            self._remember(streams, extent)
            return None
        stream.seen = self._reads
        if extent.stop <= stream.position:
            return None
        stream.position = extent.stop
        stream.ahead = max(stream.ahead, extent.stop)
        return self._extend(oid, stream)

    def fell_short(self, oid: ObjectId, window: Extent, reached: int) -> None:
        """Note that *window*, which `observe` gave, was fetched only up to *reached*: it is given again later."""
        for stream in self._objects.get(oid, ()):
            if stream.ahead == window.stop:
                stream.ahead = max(reached, stream.position)

    def _streams_of(self, oid: ObjectId) -> list[_Stream]:
        """Return the streams of *oid*, forgetting those of the object read longest ago when there are too many."""
        streams = self._objects.get(oid)
        if streams is None:
            streams = self._objects[oid] = []
            if len(self._objects) > self.settings.objects:
                self._objects.popitem(last=False)
        else:
            self._objects.move_to_end(oid)
        return streams

    def _remember(self, streams: list[_Stream], extent: Extent) -> None:
        """Begin a stream at *extent*, in place of the one that was seen longest ago."""
        if len(streams) >= self.settings.streams:
            streams.remove(min(streams, key=lambda stream: stream.seen))
        streams.append(_Stream(extent.stop, extent.stop, self.settings.first_bytes, self._reads))

    def _continues(self, stream: _Stream, extent: Extent) -> bool:
        """Say whether *extent* is close to where *stream* is, before it or behind."""
        tolerance = min(max(2 * extent.length, self.settings.near_bytes), self.settings.far_bytes)
        return stream.position - 2 * tolerance <= extent.start <= stream.position + tolerance

    def _extend(self, oid: ObjectId, stream: _Stream) -> Extent | None:
        """Return the next window of *stream*: to its end, once a step of it has been used up."""
        if stream.ahead >= oid.size:
            return None
        window_bytes = min(stream.window_bytes, self._share())
        stop = min(stream.position + window_bytes, oid.size)
        if stop < oid.size and stop - stream.ahead < min(self.settings.step_bytes, window_bytes // 2):
            return None
        if stop <= stream.ahead:
            return None
        window = Extent(stream.ahead, stop)
        stream.ahead = stop
        stream.window_bytes = min(2 * stream.window_bytes, self.settings.ahead_bytes)
        return window

    def _share(self) -> int:
        """Return how far one of the streams that are active now may reach ahead."""
        since = self._reads - self.settings.active_reads
        active = sum(stream.seen > since for streams in self._objects.values() for stream in streams)
        return max(self.settings.ahead_bytes // max(active, 1), self.settings.first_bytes)


class ReadAhead:
    """A cached content that is read ahead of its readers; a `Content`."""

    def __init__(self, content: CachedContent, policy: ReadAheadPolicy | None = None) -> None:
        self._content = content
        self._policy = policy or ReadAheadPolicy()

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        """Return exactly `extent.length` bytes of *oid*, and start fetching what will be read after it.

        Always a checkpoint. Raises what the store's read raises.
        """
        window = self._policy.observe(oid, extent)
        if window is not None:
            if extent.stop <= window.start:  # what is waited for goes first
                self._content.prefetch_nowait(oid, extent)
            reached = self._content.prefetch_nowait(oid, window)
            if reached < window.stop:
                self._policy.fell_short(oid, window, reached)
        return await self._content.read(oid, extent)

    async def cached_bytes(self, oid: ObjectId) -> int:
        """Return how many bytes of *oid* are cached."""
        return await self._content.cached_bytes(oid)

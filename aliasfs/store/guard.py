"""A store behind a guard: patience, deadlines, a limit on concurrency, quick failing, and a record of health.

It wraps any `Store` and is one. A call that finds the store away (StoreUnavailable, StoreTimeout) is tried
again, after growing pauses, until its time is over: an outage shorter than that is a stall for those who
read, not an error. One that lasts longer takes the store down: calls fail at once for a while that doubles
each time, but for one call at the end of each while that probes, once, whether the store is back. Answers
such as NotFound are no failures and are never asked for twice.

Invariants: a call that has met a failure takes no longer than `GuardConfig.request_timeout_s`, and none longer than
`GuardConfig.longest_s`; a call that pauses holds no turn, so a store in trouble holds up its own callers, for a
bounded time, and nobody else.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from typing_extensions import Buffer

from aliasfs.errors import AliasfsError, StoreError, StoreTimeout, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId, ObjectInfo, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_TO_OPEN = 2
"""Failures in a row without which no store counts as down: one request may hang for reasons of its own."""

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
"""The pauses between attempts grow from the first to the longest: then a store that is back waits 2 s at most."""

SILENCE_SHARE = 0.6
"""An attempt may be without a byte for so much of the time-out: a slow store is still heard, and there is time for
a second attempt on a fresh connection, which the network may have back long before the old one."""

ANNOUNCED_AFTER_S = 1.0
"""Shorter troubles are the store's ordinary life and not worth a line in the log."""

SLOWEST_BYTES_PER_S = 64_000
"""Below this a transfer counts as stuck; an old DSL line is faster."""

LATENCY_WEIGHT = 0.2
"""Weight of the newest request in the mean latency: about the last ten count."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """How patient a guard is, in seconds, and how many requests it has under way.

    A call is waited for and tried again for *request_timeout_s*, the wait for a turn included. The first attempt of
    a read may take longer by its size, as a line that is slow is not away; *longest_s* ends that, too, for callers
    who have to answer by then.
    """

    request_timeout_s: float = 25.0
    longest_s: float = math.inf
    concurrency: int = 64  # enough to fill 10 Gbit/s with 1 MiB reads at 50 ms

    @property
    def silence_s(self) -> float:
        """How long one attempt may be without a byte from the store; for `open_store`, whose libraries see to it."""
        return SILENCE_SHARE * self.request_timeout_s


@dataclass(slots=True)
class _Call:
    """One call on its way: when it came, since when the store has its present attempt, what the last one met."""

    is_probe: bool
    began_s: float
    time: trio.CancelScope = field(default_factory=trio.CancelScope)
    asked_s: float | None = None
    error: AliasfsError | None = None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """What a guard has seen; *last_ok_s* and *down_until_s* are on trio's clock, None for never and not down."""

    requests: int
    errors: int
    bytes_read: int
    consecutive_failures: int
    last_error: str
    last_ok_s: float | None
    mean_latency_ms: float
    down_until_s: float | None

    @property
    def is_down(self) -> bool:
        """Whether calls fail at once just now."""
        return self.down_until_s is not None


class GuardedStore:
    """*inner* behind a guard; *name* is the alias, for messages."""

    def __init__(self, inner: Store, name: str, config: GuardConfig | None = None) -> None:
        self._inner = inner
        self._name = name
        self._config = config or GuardConfig()
        self._limiter = trio.CapacityLimiter(self._config.concurrency)
        self._requests = 0
        self._errors = 0
        self._bytes_read = 0
        self._failures = 0
        self._failing_since_s: float | None = None
        self._last_failure_s = 0.0
        self._is_announced = False
        self._last_error = ""
        self._last_ok_s: float | None = None
        self._mean_latency_ms = 0.0
        self._down_until_s: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._probing = False
        self._closing = trio.Event()

    @property
    def target(self) -> str:
        return self._inner.target

    @property
    def engine(self) -> str:
        return self._inner.engine

    def health(self) -> StoreHealth:
        """Return what has been seen so far."""
        return StoreHealth(
            requests=self._requests,
            errors=self._errors,
            bytes_read=self._bytes_read,
            consecutive_failures=self._failures,
            last_error=self._last_error,
            last_ok_s=self._last_ok_s,
            mean_latency_ms=self._mean_latency_ms,
            down_until_s=self._down_until_s,
        )

    async def stat(self, key: str) -> ObjectInfo:
        return await self._guarded(lambda: self._inner.stat(key))

    async def readlink(self, key: str) -> str:
        return await self._guarded(lambda: self._inner.readlink(key))

    async def read(self, oid: ObjectId, extent: Extent) -> Buffer:
        body = await self._guarded(lambda: self._inner.read(oid, extent), extra_s=extent.length / SLOWEST_BYTES_PER_S)
        self._bytes_read += extent.length
        return body

    async def list(self, key: str) -> AsyncIterator[Sequence[ObjectInfo]]:
        pages = _Pages(self._inner, key)
        try:
            while (page := await self._guarded(pages.next)) is not None:
                yield page
        finally:
            await pages.aclose()

    async def aclose(self) -> None:
        self._closing.set()
        await self._inner.aclose()

    async def _guarded(self, request: Callable[[], Awaitable[T]], *, extra_s: float = 0.0) -> T:
        """Return what *request* returns, tried again while the store is away and there is time.

        The first attempt has *extra_s* more. When the time is over, raises what the last one met, or StoreTimeout.
        """
        limit_s = min(self._config.request_timeout_s + extra_s, self._config.longest_s)
        with self._passage() as call:
            call.time.deadline = call.began_s + limit_s
            with call.time:
                return await self._answer(call, request)
            timeout = f"alias {self._name}: the store did not answer within {math.ceil(limit_s)} s"
            error = call.error or StoreTimeout(timeout)
            if call.asked_s is not None:
                self._failed(call, error)
            self._judge(call)
            raise error

    async def _answer(self, call: _Call, request: Callable[[], Awaitable[T]]) -> T:
        """Return what *request* returns; it is tried again until that, or until somebody cancels."""
        pause_s = FIRST_RETRY_S
        while True:
            try:
                async with self._limiter:
                    self._requests += 1
                    call.asked_s = trio.current_time()
                    result = await request()
            except (StoreUnavailable, StoreTimeout) as exc:
                call.error = exc
                self._failed(call, exc)
                self._judge(call)
                if call.is_probe or self._closing.is_set():
                    raise
                call.time.deadline = min(call.time.deadline, call.began_s + self._patience_s)
            except AliasfsError as exc:
                self._errors += isinstance(exc, StoreError)
                self._answered(call)
                raise
            else:
                self._answered(call)
                return result
            call.asked_s = None
            with trio.move_on_after(pause_s * random.uniform(0.5, 1)):
                await self._closing.wait()
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    @contextmanager
    def _passage(self) -> Iterator[_Call]:
        """Let one call through; raises StoreUnavailable at once while the store is down."""
        now_s = trio.current_time()
        if self._down_until_s is None:
            yield _Call(is_probe=False, began_s=now_s)
            return
        if self._probing or now_s < self._down_until_s:
            self._requests += 1
            self._errors += 1
            raise StoreUnavailable(
                f"alias {self._name}: the store is down for now; the last error was: {self._last_error}"
            )
        self._probing = True
        try:
            yield _Call(is_probe=True, began_s=now_s)
        finally:
            self._probing = False

    @property
    def _patience_s(self) -> float:
        return min(self._config.request_timeout_s, self._config.longest_s)

    def _failed(self, call: _Call, error: AliasfsError) -> None:
        """Note that an attempt of *call* met *error*; failures far apart are no outage."""
        if self._closing.is_set():  # what closing cut off says nothing of the store
            return
        now_s = trio.current_time()
        if self._failing_since_s is None or now_s - self._last_failure_s > 2 * self._patience_s:
            self._failing_since_s = max(call.began_s, self._last_ok_s or call.began_s)
            self._failures = 0
        self._last_failure_s = now_s
        self._errors += 1
        self._failures += 1
        self._last_error = str(error)
        if not self._is_announced and now_s - self._failing_since_s >= ANNOUNCED_AFTER_S:
            self._is_announced = True
            log.info("alias %s: the store is away, it is asked again: %s", self._name, error)

    def _judge(self, call: _Call) -> None:
        """Take the store down when a probe failed, or when it has failed for as long as a call waits for it."""
        now_s = trio.current_time()
        if self._failing_since_s is None or self._closing.is_set():
            return
        # Calls that were on their way when the store went down say nothing new.
        is_outage = self._failures >= FAILURES_TO_OPEN and now_s - self._failing_since_s >= self._patience_s
        if call.is_probe or (self._down_until_s is None and is_outage):
            if not call.is_probe:
                log.warning("alias %s: the store is down: %s", self._name, self._last_error)
            self._down_until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _answered(self, call: _Call) -> None:
        now_s = trio.current_time()
        if self._is_announced and self._failing_since_s is not None:
            log.info("alias %s: the store answers again, after %.1f s", self._name, now_s - self._failing_since_s)
        self._failures = 0
        self._failing_since_s = None
        self._is_announced = False
        self._down_until_s = None
        self._pause_s = FIRST_PAUSE_S
        latency_ms = 1000 * (now_s - (call.asked_s if call.asked_s is not None else now_s))
        weight = LATENCY_WEIGHT if self._last_ok_s is not None else 1.0
        self._mean_latency_ms += weight * (latency_ms - self._mean_latency_ms)
        self._last_ok_s = now_s


class _Pages:
    """The pages of the directory *key*; when the listing breaks off, the next call begins it anew.

    A listing of *store* cannot be gone on with after an error. What was given out is not given out again.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._pages: AsyncIterator[Sequence[ObjectInfo]] | None = None
        self._given: list[Sequence[ObjectInfo]] = []
        self._seen: set[str] = set()

    async def next(self) -> Sequence[ObjectInfo] | None:
        """Return the next page that has something new; None when there is none."""
        while True:
            pages, self._pages = self._pages or self._anew(), None
            page = await anext(pages, None)
            if page is None:
                return None
            self._pages = pages
            new = [info for info in page if info.key not in self._seen] if self._seen else page
            if new:
                self._given.append(new)
                return new

    def _anew(self) -> AsyncIterator[Sequence[ObjectInfo]]:
        self._seen = {info.key for page in self._given for info in page}
        return aiter(self._store.list(self._key))

    async def aclose(self) -> None:
        """Close the listing; safe to call twice."""
        close = getattr(self._pages, "aclose", None)
        self._pages = None
        if close is not None:
            await close()

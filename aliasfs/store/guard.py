"""A store behind a guard: deadlines, a limit on concurrency, quick failing, and a record of health.

It wraps any `Store` and is one. Answers such as NotFound are not failures. After three failures in a row
the store is taken to be down: calls fail at once for a while that doubles each time, but for one call at
the end of each while that probes whether it is back. So a store that hangs holds up its own callers, for
a bounded time, and nobody else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio
from typing_extensions import Buffer

from aliasfs.errors import AliasfsError, StoreError, StoreTimeout, StoreUnavailable
from aliasfs.extents import Extent
from aliasfs.store.base import ObjectId, ObjectInfo, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_TO_OPEN = 3
"""Failures in a row after which a store counts as down; one lost connection must not do that."""

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0

SLOWEST_BYTES_PER_S = 64_000
"""Below this a transfer counts as stuck; an old DSL line is faster."""

LATENCY_WEIGHT = 0.2
"""Weight of the newest request in the mean latency: about the last ten count."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """*request_timeout_s*: what a request may take, a read longer by its size. *concurrency*: requests at once."""

    request_timeout_s: float = 30.0
    concurrency: int = 64  # enough to fill 10 Gbit/s with 1 MiB reads at 50 ms


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
        self._last_error = ""
        self._last_ok_s: float | None = None
        self._mean_latency_ms = 0.0
        self._down_until_s: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._probing = False
        self._closed = False

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
        pages = self._inner.list(key)
        async with aclosing(pages):  # type: ignore[type-var]
            while (page := await self._guarded(lambda: anext(pages, None))) is not None:
                yield page

    async def aclose(self) -> None:
        self._closed = True
        await self._inner.aclose()

    async def _guarded(self, request: Callable[[], Awaitable[T]], *, extra_s: float = 0.0) -> T:
        """Return what *request* returns, within the time-out and *extra_s*; the wait for a turn counts too."""
        limit_s = self._config.request_timeout_s + extra_s
        started_s: float | None = None
        with self._passage():
            try:
                with trio.fail_after(limit_s):
                    async with self._limiter:
                        started_s = trio.current_time()
                        result = await request()
            except trio.TooSlowError as exc:
                error = StoreTimeout(f"alias {self._name}: the store did not answer within {math.ceil(limit_s)} s")
                if started_s is not None:
                    self._failed(error)
                raise error from exc
            except (StoreUnavailable, StoreTimeout) as exc:
                self._failed(exc)
                raise
            except AliasfsError as exc:
                self._errors += isinstance(exc, StoreError)
                self._answered(started_s)
                raise
            self._answered(started_s)
            return result

    @contextmanager
    def _passage(self) -> Iterator[None]:
        """Let one call through; raises StoreUnavailable at once while the store is down."""
        self._requests += 1
        if self._down_until_s is None:
            yield
            return
        if self._probing or trio.current_time() < self._down_until_s:
            self._errors += 1
            raise StoreUnavailable(
                f"alias {self._name}: the store is down for now; the last error was: {self._last_error}"
            )
        self._probing = True
        try:
            yield
        finally:
            self._probing = False

    def _failed(self, error: AliasfsError) -> None:
        if self._closed:  # what closing cut off says nothing of the store
            return
        self._errors += 1
        self._failures += 1
        self._last_error = str(error)
        # Calls that were on their way when the store went down say nothing new.
        if self._probing or (self._down_until_s is None and self._failures >= FAILURES_TO_OPEN):
            if not self._probing:
                log.warning("alias %s: the store is down: %s", self._name, error)
            self._down_until_s = trio.current_time() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _answered(self, started_s: float | None) -> None:
        now_s = trio.current_time()
        if self._down_until_s is not None:
            log.info("alias %s: the store answers again", self._name)
        self._failures = 0
        self._down_until_s = None
        self._pause_s = FIRST_PAUSE_S
        latency_ms = 1000 * (now_s - (started_s if started_s is not None else now_s))
        weight = LATENCY_WEIGHT if self._last_ok_s is not None else 1.0
        self._mean_latency_ms += weight * (latency_ms - self._mean_latency_ms)
        self._last_ok_s = now_s

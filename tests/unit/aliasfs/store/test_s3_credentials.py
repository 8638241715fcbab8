"""Credentials for obstore come from botocore's session and are asked for again before they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials

from aliasfs.errors import AccessDenied
from aliasfs.store.aio import AsyncioBridge
from aliasfs.store.s3_obstore import SessionCredentials


class OneBucket:
    """A bucket whose client signs with *credentials*."""

    name = "bucket"

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    async def credentials(self) -> Any:
        return self._credentials


class ShortLived:
    """A provider of credentials that live for *seconds* each, numbered in the order in which they were given."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self.given = 0

    async def refresh(self) -> dict[str, str]:
        self.given += 1
        ends = datetime.now(UTC) + timedelta(seconds=self._seconds)
        return {
            "access_key": f"key-{self.given}",
            "secret_key": "secret",
            "token": "token",
            "expiry_time": ends.isoformat(),
        }

    async def credentials(self) -> Any:
        return AioRefreshableCredentials.create_from_metadata(
            await self.refresh(), refresh_using=self.refresh, method="test"
        )


async def ask(provider: SessionCredentials) -> dict[str, Any]:
    bridge = AsyncioBridge()
    try:
        return await bridge.call(provider)
    finally:
        await bridge.aclose()


async def test_those_that_do_not_end_are_kept_for_a_while() -> None:
    said = await ask(SessionCredentials(OneBucket(AioCredentials("k", "s", "t"))))  # type: ignore[arg-type]
    assert (said["access_key_id"], said["secret_access_key"], said["token"]) == ("k", "s", "t")
    assert said["expires_at"] > datetime.now(UTC) + timedelta(minutes=5)


async def test_those_that_end_soon_are_renewed_with_every_question() -> None:
    bridge = AsyncioBridge()
    source = ShortLived(seconds=60)
    provider = SessionCredentials(OneBucket(await bridge.call(source.credentials)))  # type: ignore[arg-type]
    keys = [(await bridge.call(provider))["access_key_id"] for _ in range(3)]
    assert keys == ["key-2", "key-3", "key-4"]
    assert (await bridge.call(provider))["expires_at"] <= datetime.now(UTC)
    await bridge.aclose()


async def test_none_at_all_is_said() -> None:
    with pytest.raises(AccessDenied, match="no credentials"):
        await ask(SessionCredentials(OneBucket(None)))  # type: ignore[arg-type]

"""The obstore client for a bucket whose aiobotocore client s3fs has made, so that both go to the same place.

End point and region are taken from that client, credentials from its session: botocore's chain covers
environment, profiles, SSO, web identity, containers and instance metadata, and renews what expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aliasfs.errors import AccessDenied
from aliasfs.store import failures
from aliasfs.store.obs import client_options, retry_config
from aliasfs.store.s3 import S3Bucket

if TYPE_CHECKING:
    from obstore.store import S3Store

UNDERSTOOD = frozenset(
    {"key", "secret", "token", "username", "password", "profile", "anon", "endpoint_url", "requester_pays"}
)
"""The s3fs options that mean the same here; any other needs s3fs itself."""

UNDERSTOOD_CLIENT_KWARGS = frozenset({"region_name", "verify", "endpoint_url"})

CREDENTIAL_LIFE_S = 360
"""obstore asks again when credentials have less than five minutes left: so about once a minute, which is cheap,
since botocore answers from memory until they near their end."""


async def open_s3(bucket: S3Bucket, options: Mapping[str, Any], request_timeout_s: float) -> S3Store:
    """Return the obstore client of *bucket*, which has the s3fs storage options *options*."""
    from obstore.store import S3Store

    client = await bucket.client()
    endpoint: str = client.meta.endpoint_url
    host = urlsplit(endpoint).hostname or ""
    is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    verify = (options.get("client_kwargs") or {}).get("verify")
    http = client_options(endpoint, request_timeout_s)
    if verify is False:
        http["allow_invalid_certificates"] = True
    elif isinstance(verify, str):
        http["root_certificate"] = await asyncio.to_thread(Path(verify).read_bytes)
    region = client.meta.region_name
    if is_aws and region in (None, "aws-global"):
        region = await bucket.region()
        endpoint = f"https://s3.{region}.amazonaws.com"
    virtual_hosted = is_aws and "." not in bucket.name
    if virtual_hosted:
        scheme, _, rest = endpoint.partition("://")
        endpoint = f"{scheme}://{bucket.name}.{rest}"
    return S3Store(
        bucket.name,
        endpoint=endpoint,
        region=region or "us-east-1",
        virtual_hosted_style_request=virtual_hosted,
        request_payer=bool(options.get("requester_pays")),
        client_options=http,
        retry_config=retry_config(),
        **_signing(bucket, options),
    )


def _signing(bucket: S3Bucket, options: Mapping[str, Any]) -> dict[str, Any]:
    if options.get("anon"):
        return {"skip_signature": True}
    return {"skip_signature": False, "credential_provider": SessionCredentials(bucket)}


class SessionCredentials:
    """Gives obstore the credentials that the aiobotocore client of *bucket* signs with, renewed before they expire."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket

    async def __call__(self) -> dict[str, Any]:
        credentials = await self._bucket.credentials()
        if credentials is None:
            raise failures.no_credentials(f"s3://{self._bucket.name}")
        frozen = await credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise AccessDenied(f"s3://{self._bucket.name}: the credentials lack a key or a secret")
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": _expiry(credentials),
        }


def _expiry(credentials: Any) -> datetime:
    """Return until when obstore may keep *credentials*: not past their own end, where they have one."""
    refresh_needed = getattr(credentials, "refresh_needed", None)
    short_lived = refresh_needed is not None and refresh_needed(refresh_in=CREDENTIAL_LIFE_S)
    return datetime.now(UTC) + timedelta(seconds=0 if short_lived else CREDENTIAL_LIFE_S)

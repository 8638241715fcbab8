"""Which Azure account an alias means and how to sign for it: adlfs options, the environment, the URL.

The account is worked out once and then given to both libraries, so that listings and reads cannot go to
different places. Nothing here is shown: it holds credentials.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aliasfs.errors import ConfigError
from aliasfs.store.azure import AzureClient, quick_retries
from aliasfs.store.obs import client_options, retry_config
from aliasfs.urls import ObjectUrl

if TYPE_CHECKING:
    from obstore.store import AzureStore

SCOPE = "https://storage.azure.com/.default"

UNDERSTOOD = frozenset(
    {"account_name", "account_key", "sas_token", "connection_string", "credential", "anon", "account_host"}
)
"""The adlfs options that mean the same here; any other needs adlfs itself."""

CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """An end point and one way to sign: *key*, else *sas*, else *token_credential*, else nothing (anonymous)."""

    name: str
    endpoint: str
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)
    token_credential: Any = field(default=None, repr=False)
    anon: bool = False

    @classmethod
    def of(cls, url: ObjectUrl, options: Mapping[str, Any]) -> AzureAccount:
        """Return the account that *url* and the adlfs storage options *options* mean; ConfigError if none."""

        def option(name: str, variable: str) -> str:
            return str(options.get(name) or os.environ.get(variable, ""))

        parts = _connection_parts(option("connection_string", "AZURE_STORAGE_CONNECTION_STRING"))
        name = url.account or option("account_name", "AZURE_STORAGE_ACCOUNT_NAME") or parts.get("accountname", "")
        endpoint = parts.get("blobendpoint", "").rstrip("/")
        if not endpoint:
            if not name:
                place = f"{url.scheme}://{url.container_or_bucket}"
                raise ConfigError(f"{place} names no storage account; set account_name in its options")
            endpoint = f"https://{_host(name, url.host, parts, options)}"
        credential = options.get("credential")
        signed = credential if isinstance(credential, str) else ""
        key = option("account_key", "AZURE_STORAGE_ACCOUNT_KEY") or parts.get("accountkey", "")
        sas = option("sas_token", "AZURE_STORAGE_SAS_TOKEN") or parts.get("sharedaccesssignature", "")
        if signed:
            key, sas = ("", signed) if "sig=" in signed else (signed, "")
        return cls(
            name=name,
            endpoint=endpoint,
            key=key,
            sas="" if key else sas.removeprefix("?"),
            token_credential=None if signed else credential,
            anon=_is_anonymous(options),
        )

    def _sdk_credential(self) -> Any:
        from azure.core.credentials import AzureSasCredential

        if self.key:
            return {"account_name": self.name, "account_key": self.key}
        if self.sas:
            return AzureSasCredential(self.sas)
        return None

    def _token_credential(self) -> Any:
        """Return the credential that gives tokens; None when tokens are not what signs."""
        if self.key or self.sas or (self.anon and self.token_credential is None):
            return None
        if self.token_credential is not None:
            return self.token_credential
        from azure.identity.aio import DefaultAzureCredential

        return DefaultAzureCredential()

    def open_sdk(self, container: str, request_timeout_s: float) -> AzureClient:
        """Return the SDK client of *container*; asks nothing of the network."""
        from azure.storage.blob.aio import ContainerClient

        token = self._token_credential()
        client = ContainerClient(
            self.endpoint,
            container,
            credential=token or self._sdk_credential(),
            retry_policy=quick_retries(),
            connection_timeout=CONNECT_TIMEOUT_S,
            read_timeout=request_timeout_s,
        )
        return AzureClient(client, token, owned=[token] if token is not None and self.token_credential is None else [])

    def open_obstore(self, container: str, token_credential: Any, request_timeout_s: float) -> AzureStore:
        """Return the obstore client of *container*, which signs with *token_credential* unless that is None."""
        from obstore.store import AzureStore

        signing: dict[str, Any] = {"skip_signature": True}
        if token_credential is not None:
            signing = {"credential_provider": TokenProvider(token_credential)}
        elif self.key:
            signing = {"account_key": self.key}
        elif self.sas:
            signing = {"sas_key": self.sas}
        return AzureStore(
            container,
            account_name=self.name,
            endpoint=self.endpoint,
            client_options=client_options(self.endpoint, request_timeout_s),
            retry_config=retry_config(),
            **signing,
        )


class TokenProvider:
    """Gives obstore the tokens of an azure-identity credential, which renews them before they expire."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    async def __call__(self) -> dict[str, Any]:
        token = await self._credential.get_token(SCOPE)
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}


def _host(name: str, host: str, parts: Mapping[str, str], options: Mapping[str, Any]) -> str:
    if options.get("account_host"):
        return str(options["account_host"])
    if host:
        # The same account has one host name per protocol; blobs are read by the blob protocol.
        return host.replace(".dfs.", ".blob.", 1)
    return f"{name}.blob.{parts.get('endpointsuffix', 'core.windows.net')}"


def _connection_parts(text: str) -> dict[str, str]:
    """Return the `Name=value` pairs of a connection string, names in lower case."""
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _is_anonymous(options: Mapping[str, Any]) -> bool:
    given = options.get("anon", os.environ.get("AZURE_STORAGE_ANON", "false"))
    return str(given).lower() not in ("false", "0", "f", "", "none")

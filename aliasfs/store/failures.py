"""What an answer of a server means, as one sentence and one class; shared by all that speak HTTP."""

from __future__ import annotations

from aliasfs.errors import AccessDenied, AliasfsError, NotFound, StaleObject, StoreError, StoreTimeout, StoreUnavailable


def refused(status: int, place: str) -> AliasfsError:
    """Return the error for the HTTP status *status* (4xx, 5xx, or a redirect that leads nowhere) at *place*."""
    if status in (404, 410):
        return NotFound(f"{place} does not exist")
    if status in (401, 403):
        return AccessDenied(f"{place}: the store refuses access (HTTP {status}); check the credentials of the alias")
    if status in (412, 416):
        return StaleObject(f"{place} was replaced since it was opened")
    if status in (408, 425, 429) or status >= 500:
        return StoreUnavailable(f"{place}: the store is busy or broken (HTTP {status}); try again later")
    if 300 <= status < 400:
        return StoreError(
            f"{place}: the store redirects (HTTP {status}); the region or end point of the alias is wrong"
        )
    return StoreError(f"{place}: the store does not accept the request (HTTP {status})")


def unreachable(place: str) -> StoreUnavailable:
    """Return the error for a connection that could not be made or was lost."""
    return StoreUnavailable(
        f"{place}: the store cannot be reached or the connection broke; check network and end point"
    )


def timed_out(place: str) -> StoreTimeout:
    """Return the error for a server that did not answer in time."""
    return StoreTimeout(f"{place}: the store did not answer in time")


def no_credentials(place: str) -> AccessDenied:
    """Return the error for a chain of credentials that ends without any."""
    return AccessDenied(f"{place}: no credentials were found; give them in the options of the alias, or set anon: true")


def missing_bucket(place: str) -> NotFound:
    """Return the error for a bucket or container that is not there."""
    return NotFound(f"{place} does not exist: there is no such bucket or container")


def nonsense(place: str) -> StoreError:
    """Return the error for an answer that is not what its protocol says."""
    return StoreError(f"{place}: the store answers what is no answer; is the end point of the alias right?")

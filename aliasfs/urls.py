"""The one spelling of every place an alias can point to; pure text, nothing is opened.

`canonical` turns what a person writes into what the rest of the program compares, stores and opens:
an absolute path for local data, else a URL with a lower-case scheme and no trailing slash. Case, percent
escapes and doubled slashes of a URL are kept, since an object's key may hold them. A URL that carries a
credential is refused before anything else is said about it, so that no message repeats one.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from aliasfs.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TOKEN = re.compile(r"<[A-Z][A-Z0-9_]*>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_SECRET_PARAMETER = re.compile(
    r"(?i)[?&;](?:[\w.-]*(?:sig|signature|token|secret|password|passwd|credential|accesskeyid|accountkey|api[-_]?key)|key|code)="
)

_SYNONYMS = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_OBJECT_FORMS = {
    "s3": "s3://BUCKET/PREFIX",
    "gs": "gs://BUCKET/PREFIX",
    "az": "az://CONTAINER/PREFIX",
    "abfs": "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
    "abfss": "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
    "azfs": "azfs://ACCOUNT/CONTAINER/PREFIX",
}
_LOCAL_SCHEMES = ("file", "local")
_AZURE_WITH_HOST = ("az", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """A canonical URL of an object store, taken apart.

    *account* is the Azure storage account where the URL names one, else "". *prefix* has no leading or
    trailing slash; "" is the whole bucket or container. *host* is the full name of the Azure end point
    where the URL spells it out (`abfss://c@acc.dfs.core.windows.net`), else "".
    """

    scheme: str
    account: str
    container_or_bucket: str
    prefix: str
    host: str = ""


def canonical(value: str, *, base: str = "/", home: str = "") -> str:
    """Return the canonical form of *value*, a path or URL as a person wrote it.

    *base* is the directory that a suggestion for a relative path is built on, *home* what `~` stands for
    (the user's home directory when empty). Raises ConfigError when *value* is empty, relative, holds an
    alias token or a credential, or is malformed; the message never repeats a credential.
    """
    text = value.strip()
    _refuse_unusable(text)
    if text.startswith(("/", "~")):
        return _local(text, home)
    _refuse_credentials(text)
    if "::" in text:
        return _trim(_SCHEME.sub(lambda m: f"{m[1].lower()}://", text))
    for scheme in _LOCAL_SCHEMES:
        if text.lower().startswith(f"{scheme}:"):
            return _from_file_url(text, text[len(scheme) + 1 :], home)
    match = _SCHEME.match(text)
    if match is None:
        raise ConfigError(_not_absolute(text, base))
    scheme = match[1].lower()
    return _remote(_SYNONYMS.get(scheme, scheme), text[match.end() :])


def parse_object_url(url: str) -> ObjectUrl | None:
    """Return the parts of the canonical *url* of an object store; None for any other place.

    None also for an S3 access point given as an ARN, which only fsspec takes apart rightly.
    """
    match = _SCHEME.match(url)
    if match is None or match[1] not in _OBJECT_FORMS or "::" in url:
        return None
    scheme = match[1]
    head, _, rest = url[match.end() :].partition("/")
    if head.startswith("arn:"):
        return None
    if scheme == "azfs":
        container, _, prefix = rest.partition("/")
        return ObjectUrl(scheme, head, container, prefix)
    container, _, host = head.partition("@")
    return ObjectUrl(scheme, host.partition(".")[0], container, rest, host)


def _refuse_unusable(text: str) -> None:
    if not text:
        raise ConfigError(
            "the path is empty; write an absolute path such as /data/project, or a URL such as s3://bucket/prefix"
        )
    if _CONTROL.search(text):
        raise ConfigError(
            "the path holds a control character (a line break, a tab or NUL); write it on one line without"
        )
    token = _TOKEN.search(text)
    if token:
        raise ConfigError(f"the path holds the alias token {token[0]}, but aliases do not nest; write the place itself")


def _refuse_credentials(text: str) -> None:
    """Raise ConfigError when any link of the (chained) URL *text* carries a password, key or signature."""
    for link in text.split("::"):
        match = _SCHEME.match(link)
        scheme = match[1].lower() if match else ""
        head = link[match.end() if match else 0 :].partition("/")[0]
        user, at, _ = head.rpartition("@")
        holds_user = bool(at) and (":" in user or (scheme not in _AZURE_WITH_HOST and not _takes_user(scheme)))
        # A secret key may itself hold a slash, which then ends the head before its '@'.
        is_object = _SYNONYMS.get(scheme, scheme) in _OBJECT_FORMS
        cut_user = is_object and not at and ":" in head and not head.startswith("arn:")
        if holds_user or cut_user or _SECRET_PARAMETER.search(link):
            raise ConfigError(
                f"the {f'{scheme}:// ' if scheme else ''}URL carries a credential; take it out and give it in options, "
                'as in options: {key: "${MY_KEY}", secret: "${MY_SECRET}"}'
            )


def _takes_user(scheme: str) -> bool:
    """Say whether a bare user name before '@' is ordinary in URLs of *scheme*, and no token in disguise."""
    return scheme not in _OBJECT_FORMS and scheme not in _SYNONYMS and scheme not in ("http", "https", "")


def _local(path: str, home: str) -> str:
    if path == "~" or path.startswith("~/"):
        path = (home or os.path.expanduser("~")) + path[1:]
    elif path.startswith("~"):
        expanded = os.path.expanduser(path)
        if expanded == path:
            raise ConfigError(f"{path.partition('/')[0]} names no user of this machine; write the absolute path")
        path = expanded
    return os.path.normpath("/" + path.lstrip("/"))


def _from_file_url(text: str, rest: str, home: str) -> str:
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
        if host == "~":
            rest = "~" + rest
        elif host not in ("", "localhost"):
            raise ConfigError(
                f"{text!r} names the host {host}, but only files of this machine can be opened; write file:///PATH"
            )
    if not rest.startswith(("/", "~")):
        raise ConfigError(f"{text!r} holds no absolute path; write file:///PATH or just /PATH")
    return _local(rest, home)


def _not_absolute(text: str, base: str) -> str:
    if _DRIVE.match(text):
        return f"{text!r} is a Windows path; write where that data is on this machine"
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        return f"{text!r} is neither a path nor a URL; did you mean {scheme.lower()}://{rest.lstrip('/')}?"
    absolute = os.path.normpath(os.path.join(base, text))
    return f"{text!r} is a relative path; write it absolute, as in {absolute}"


def _remote(scheme: str, rest: str) -> str:
    """Return the canonical URL of *scheme* for what follows its `://`."""
    url = _trim(f"{scheme}://{rest}")
    if scheme in ("http", "https"):
        _refuse_dots(url, rest)
        if not rest.partition("/")[0]:
            raise ConfigError(f"{url!r} names no host; write {scheme}://HOST/PATH")
    elif scheme in _OBJECT_FORMS:
        _refuse_dots(url, rest)
        parts = parse_object_url(url)
        if parts is not None and not (parts.container_or_bucket and (scheme != "azfs" or parts.account)):
            raise ConfigError(f"{url!r} is incomplete; write {_OBJECT_FORMS[scheme]}")
        if parts is not None and "@" in url.partition("://")[2].partition("/")[0] and not parts.account:
            raise ConfigError(f"{url!r} names no account after '@'; write {_OBJECT_FORMS[scheme]}")
    else:
        return url
    if "?" in url:
        raise ConfigError(
            f"{url.partition('?')[0]!r} is followed by a query, which names no directory; leave out what follows '?'"
        )
    return url


def _refuse_dots(url: str, rest: str) -> None:
    if not {".", ".."}.isdisjoint(rest.split("/")):
        raise ConfigError(f"{url!r} holds a '.' or '..' segment, which stores take literally; write the URL without it")


def _trim(url: str) -> str:
    """Return *url* without trailing slashes; those of a bare `scheme://` stay."""
    stripped = url.rstrip("/")
    return f"{stripped}//" if stripped.endswith(":") else stripped

"""3LC's own alias files as a source of ours; reads only, and nothing but YAML files.

3LC keeps aliases in `config.yaml` of the user, `config.3lc.yaml` of the project root and
`default_aliases.3lc.yaml` of each project, a later one of this list giving way to an earlier. Its rules
are laxer than ours, so an entry that cannot be an alias here is reported with the reason, never guessed
at. Source: 3LC's documentation and its command line, version 3.4.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aliasfs import yamlfile
from aliasfs.errors import ConfigError
from aliasfs.registry import ALIAS_NAME
from aliasfs.urls import canonical
from aliasfs.yamlfile import Document

_PROJECT_ROOT_FILE = "config.3lc.yaml"
_PROJECT_FILE = "default_aliases.3lc.yaml"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")  # 3LC expands both spellings


class Found(NamedTuple):
    """An alias that can be taken over; *url* is canonical, *origin* is `FILE:LINE`."""

    name: str
    url: str
    origin: str


class Skipped(NamedTuple):
    """An entry that is not taken over, and the sentence that says why.

    *is_unusable* is false where another file's value of the same name goes first, as in 3LC itself.
    """

    name: str
    reason: str
    origin: str
    is_unusable: bool = True


@dataclass(frozen=True)
class ThreeLcAliases:
    """What 3LC's files hold; *files* are those that exist and were read."""

    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[Path, ...]


def read_aliases(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> ThreeLcAliases:
    """Return the aliases of *file*, or of all files that 3LC itself would look in; blocks on the disk.

    Raises ConfigError when *file* cannot be read, when one that exists is not YAML, or when none exists.
    """
    documents = [yamlfile.read(file)] if file else list(_documents(environ))
    if not documents:
        raise ConfigError(f"3LC has no configuration at {_user_file(environ)}; name the file, as in --from-3lc FILE")
    found: dict[str, Found] = {}
    skipped: list[Skipped] = []
    for document in documents:
        of_file: dict[str, Found] = {}
        for item in _entries(document, environ):
            if isinstance(item, Skipped):
                skipped.append(item)
            elif item.name in found:
                winner = found[item.name]
                if winner.url != item.url:
                    skipped.append(
                        Skipped(item.name, f"the value of {winner.origin} goes first", item.origin, is_unusable=False)
                    )
            else:
                of_file[item.name] = item
        found.update(of_file)
    return ThreeLcAliases(tuple(found.values()), tuple(skipped), tuple(document.path for document in documents))


def _documents(environ: Mapping[str, str]) -> Iterator[Document]:
    """Yield 3LC's files that exist, the one that wins first."""
    user_file = _user_file(environ)
    if user_file.exists():
        yield (user := yamlfile.read(user_file))
        root = environ.get("TLC_PROJECT_ROOT_URL") or user.content.get("project-root-url")
    else:
        root = environ.get("TLC_PROJECT_ROOT_URL")
    projects = _project_root(root, environ)
    if projects is None:
        return
    for path in (projects / _PROJECT_ROOT_FILE, *sorted(projects.glob(f"*/{_PROJECT_FILE}"))):
        if path.is_file():
            yield yamlfile.read(path)


def _user_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("TLC_CONFIG_FILE")
    if named:
        return Path(named)
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    return Path(base, "3LC", "config.yaml")


def _project_root(root: object, environ: Mapping[str, str]) -> Path | None:
    """Return the directory of projects; None when it is not on this machine."""
    if not isinstance(root, str) or not root:
        return Path(_home(environ), ".local", "share", "3LC", "projects")
    try:
        place = canonical(_expand(root, environ), home=_home(environ))
    except ConfigError:
        return None  # a remote or unusable root has no files to read here; 3LC goes on without them, too
    return Path(place) if place.startswith("/") else None


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _entries(document: Document, environ: Mapping[str, str]) -> Iterator[Found | Skipped]:
    aliases = document.content.get("aliases")
    if aliases is None:
        return
    if not isinstance(aliases, Mapping):
        raise ConfigError(f"{document.place(('aliases',))}: 'aliases' must be a mapping of names to paths")
    for key, value in aliases.items():
        origin = document.place(("aliases", str(key)))
        name = str(key)
        if name.startswith("<") and name.endswith(">"):
            name = name[1:-1]
        if not ALIAS_NAME.fullmatch(name):
            yield Skipped(name, "the name must be capital letters, digits and '_', beginning with a letter", origin)
        elif not isinstance(value, str):
            yield Skipped(name, "the path must be text", origin)
        elif "\\" in value or re.match(r"[A-Za-z]:/", value):
            yield Skipped(
                name, "it is a Windows path; add the alias with the place of that data on this machine", origin
            )
        else:
            yield _take(name, value, origin, environ)


def _take(name: str, value: str, origin: str, environ: Mapping[str, str]) -> Found | Skipped:
    try:
        return Found(name, canonical(_expand(value.strip(), environ), home=_home(environ)), origin)
    except ConfigError as exc:
        return Skipped(name, str(exc), origin)


def _expand(text: str, environ: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in environ:
            raise ConfigError(f"it uses the environment variable {variable}, which is not set")
        return environ[variable]

    return _VARIABLE.sub(value_of, text)

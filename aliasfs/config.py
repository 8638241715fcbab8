"""The configuration: YAML files, environment and command line become one checked, immutable `Config`.

Tiers, lowest first, merged per alias (and per key of the other sections): system file, user file,
`ALIASFS_ALIAS_<NAME>` variables, `--alias`; a file named with `--config` or `$ALIASFS_CONFIG` is read in
place of both files. All problems found are reported together, one per line, each with its file and line.
No message holds the value of an option, and no value that pydantic saw is repeated.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from aliasfs import yamlfile
from aliasfs.errors import AccessDenied, ConfigError
from aliasfs.registry import ALIAS_NAME, LOCAL_TTL_S, REMOTE_TTL_S, Alias, Engine, Mode, Registry, Tier
from aliasfs.units import Share, expand, parse_mode, parse_share, parse_size
from aliasfs.urls import canonical
from aliasfs.yamlfile import Document, OctalInt

log = logging.getLogger(__name__)

SYSTEM_FILE = Path("/etc/aliasfs/config.yaml")
CONFIG_VARIABLE = "ALIASFS_CONFIG"
ALIAS_VARIABLE_PREFIX = "ALIASFS_ALIAS_"


def _absolute(value: object) -> object:
    try:
        path = canonical(os.fspath(value)) if isinstance(value, str | Path) else value
    except ConfigError as exc:
        raise ValueError(f"is no directory: {exc}") from None
    if isinstance(path, str) and not path.startswith("/"):
        raise ValueError("is a URL; write the absolute path of a directory of this machine")
    return path


def _permission_bits(value: object) -> object:
    return parse_mode(value) if isinstance(value, str) else value


Directory = Annotated[Path, BeforeValidator(_absolute)]
Size = Annotated[int, BeforeValidator(parse_size)]
Permissions = Annotated[int, BeforeValidator(_permission_bits), Field(ge=0, le=0o777)]
OwnerId = Annotated[int, Field(ge=0, lt=2**32 - 1)]  # the last one means "no change" to chown(2)
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)


SectionT = TypeVar("SectionT", bound=_Section)


class CacheSettings(_Section):
    """Section `cache`: where cached bytes are kept and how much disk they may take."""

    dir: Directory = Field(default_factory=lambda: default_cache_dir(os.environ))
    enabled: bool = True
    size: Size = 20 * 10**9  # bytes; holds a usual training set and fits the root disk of a usual VM
    min_free: Annotated[Share, BeforeValidator(parse_share)] = Share(percent=5)  # what ext4 keeps for root, too

    def min_free_bytes(self, disk_total: int) -> int:
        """Return how many bytes to leave free on a disk of *disk_total* bytes."""
        return self.min_free.of(disk_total)


class MountSettings(_Section):
    """Section `mount`: where the tree appears and what its files look like.

    Owner and modes are those shown for object stores, which have none of their own; None is the user who
    mounts, and 0444 or 0555. Local aliases always show what the disk says.
    """

    point: Directory = Path("/mnt/aliases")
    allow_other: bool = False
    uid: OwnerId | None = None
    gid: OwnerId | None = None
    file_mode: Permissions | None = None
    dir_mode: Permissions | None = None


class DaemonSettings(_Section):
    """Section `daemon`: how the serving process behaves."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    request_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False, alias="request_timeout")] = 25.0
    hang_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False, alias="hang_timeout")] = Field(
        default_factory=lambda valid: max(30.0, valid.get("request_timeout_s", 0.0) + 5.0)
    )
    restart_limit: Annotated[int, Field(ge=1)] = 8  # with the keeper's growing pauses about a minute of trying
    read_memory: Size = 96 * 10**6  # bytes; read-ahead of all open files together, which keeps the process below 300 MB
    memory_max: Size | None = None  # bytes; above it the server sheds its caches

    @field_validator("hang_timeout_s")
    @classmethod
    def _outlasts_a_request(cls, value: float, info: ValidationInfo) -> float:
        """Refuse to take a store that is merely slow for a server that hangs."""
        request_timeout_s = info.data.get("request_timeout_s", 0.0)
        if value <= request_timeout_s:
            raise ValueError(
                f"must be longer than daemon.request_timeout, which is {request_timeout_s:g} s;"
                " a slow store would be taken for a server that hangs"
            )
        return value


class _AliasEntry(_Section):
    """The long form of one entry of `aliases`."""

    url: str
    mode: Mode = Mode.RO
    options: dict[str, Any] = Field(default_factory=dict)
    ttl: Seconds | None = None
    engine: Engine = Engine.AUTO


_SECTIONS: dict[str, type[_Section]] = {"cache": CacheSettings, "mount": MountSettings, "daemon": DaemonSettings}
_TOP_LEVEL = ("aliases", *_SECTIONS)


@dataclass(frozen=True)
class ConfigFiles:
    """Which files are read, lowest tier first; *required* when a person named the file."""

    tiers: tuple[tuple[Tier, Path], ...]
    required: bool
    edit_file: Path


@dataclass(frozen=True)
class Config:
    """Everything that was configured.

    *files* are those that were or would be read, lowest tier first; some may not exist. *edit_file* is
    the one that `aliasfs alias add` writes to.
    """

    registry: Registry
    cache: CacheSettings
    mount: MountSettings
    daemon: DaemonSettings
    files: tuple[Path, ...]
    edit_file: Path


@dataclass(frozen=True)
class _Given:
    """One key of a section as a file gives it, with its place."""

    value: object
    place: str


def load(
    config_file: Path | None = None, *, cli_aliases: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Config:
    """Return the configuration in force; blocks on the disk.

    *config_file* is what `--config` gave, *cli_aliases* what each `--alias` gave (`NAME=URL`). Raises
    ConfigError whose message holds every problem found, one per line; AccessDenied for a file that this
    user may not read, save the system's, which is then left out with a warning.
    """
    return _Loader(environ).load(find_files(config_file, environ), cli_aliases, {})


def check_edit(path: Path, text: str, *, config_file: Path | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError when the configuration would not load with *text* in the file *path*."""
    _Loader(environ).load(find_files(config_file, environ), (), {path: text})


def find_files(config_file: Path | None, environ: Mapping[str, str] = os.environ) -> ConfigFiles:
    """Return which files *config_file* (from `--config`) and *environ* lead to; none is opened."""
    named = config_file or environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(os.path.abspath(named))
        return ConfigFiles(((Tier.FILE, path),), True, path)
    user_file = _xdg(environ, "XDG_CONFIG_HOME", ".config") / "aliasfs" / "config.yaml"
    for_all = os.geteuid() == 0 and not user_file.exists()
    return ConfigFiles(
        ((Tier.SYSTEM, SYSTEM_FILE), (Tier.USER, user_file)), False, SYSTEM_FILE if for_all else user_file
    )


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return where the cache is kept when no file says: shared for root, else the user's own."""
    if os.geteuid() == 0:
        return Path("/var/cache/aliasfs")
    return _xdg(environ, "XDG_CACHE_HOME", ".cache") / "aliasfs"


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return a base directory of the XDG specification, which has relative values ignored."""
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path(_home(environ), below_home)


def _suggest(key: object, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(str(key), names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"the keys known here are {', '.join(names)}"


def name_problem(name: object) -> str:
    """Return what is wrong with an alias name and what it might be instead."""
    fixed = re.sub(r"[^A-Z0-9_]+", "_", str(name).upper()).strip("_")
    hint = f"; did you mean {fixed}?" if ALIAS_NAME.fullmatch(fixed) else ""
    return f"{name!r} is no alias name: capital letters, digits and '_' only, beginning with a letter{hint}"


class _Loader:
    """One run over all tiers; collects problems so that they can be reported together."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._home = _home(environ)
        self._problems: list[str] = []
        self._aliases: dict[str, Alias] = {}
        self._sections: dict[str, dict[str, _Given]] = {name: {} for name in _SECTIONS}

    def load(self, files: ConfigFiles, cli_aliases: Sequence[str], unsaved: Mapping[Path, str]) -> Config:
        """Return what *files*, the environment and *cli_aliases* say, with *unsaved* texts in place of their files."""
        for tier, path in files.tiers:
            try:
                text = unsaved.get(path)
                document = (
                    yamlfile.read(path, missing_ok=not files.required) if text is None else yamlfile.parse(path, text)
                )
            except ConfigError as exc:
                self._problems.append(str(exc))
                continue
            except AccessDenied as exc:
                # An administrator may keep the system's aliases, with their secrets, from ordinary users.
                if tier is not Tier.SYSTEM:
                    raise
                log.warning("%s; it is left out", exc)
                continue
            self._take_document(document, tier)
        self._take_environment()
        for pair in cli_aliases:
            self._take_pair(pair)
        self._sections["cache"].setdefault("dir", _Given(str(default_cache_dir(self._environ)), "cache"))
        cache = self._settings("cache", CacheSettings)
        mount = self._settings("mount", MountSettings)
        daemon = self._settings("daemon", DaemonSettings)
        if self._problems or cache is None or mount is None or daemon is None:
            raise ConfigError("\n".join(self._problems))
        paths = tuple(path for _, path in files.tiers)
        return Config(Registry(self._aliases.values()), cache, mount, daemon, paths, files.edit_file)

    def _take_document(self, document: Document, tier: Tier) -> None:
        for key, value in document.content.items():
            if key not in _TOP_LEVEL:
                self._problem(document.place((str(key),)), f"unknown section {key!r}; {_suggest(key, _TOP_LEVEL)}")
            elif value is not None and not isinstance(value, Mapping):
                self._problem(
                    document.place((key,)), f"'{key}' must be a mapping, with one 'name: value' per line below it"
                )
            elif key == "aliases":
                for name, entry in (value or {}).items():
                    self._take_alias(document, tier, name, entry)
            else:
                self._take_section(document, key, value or {})

    def _take_alias(self, document: Document, tier: Tier, name: object, entry: object) -> None:
        place = document.place(("aliases", str(name)))
        if not isinstance(name, str) or not ALIAS_NAME.fullmatch(name):
            self._problem(place, name_problem(name))
            return
        fields = {"url": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, Mapping) or not fields:
            self._problem(place, f"alias {name} must be a path, a URL, or a mapping that holds 'url:'")
            return
        keys = ("aliases", name)
        known = tuple(_AliasEntry.model_fields)
        self._refuse_unknown(document, keys, fields, known)
        if "url" not in fields:
            self._problem(place, f"alias {name} has no 'url:'; add one, with a path or a URL")
            return
        before = len(self._problems)
        expanded = {key: self._expand(document, (*keys, key), fields[key]) for key in known if key in fields}
        try:
            parsed = _AliasEntry.model_validate(expanded)
        except ValidationError as exc:
            self._explain(exc, ".".join(keys), lambda loc: document.place((*keys, *loc)))
            return
        if len(self._problems) == before:
            self._add(name, parsed, tier, place)

    def _add(self, name: str, entry: _AliasEntry, tier: Tier, origin: str, base: str = "/") -> None:
        try:
            url = canonical(entry.url, base=base, home=self._home)
        except ConfigError as exc:
            self._problem(origin, f"alias {name}: {exc}")
            return
        default_ttl_s = LOCAL_TTL_S if url.startswith("/") else REMOTE_TTL_S
        ttl_s = default_ttl_s if entry.ttl is None else entry.ttl
        self._aliases[name] = Alias(name, url, entry.mode, entry.options, ttl_s, entry.engine, tier, origin)

    def _take_environment(self) -> None:
        for variable in sorted(self._environ):
            if variable.startswith(ALIAS_VARIABLE_PREFIX):
                name = variable.removeprefix(ALIAS_VARIABLE_PREFIX)
                self._take_text(f"environment variable {variable}", name, self._environ[variable], Tier.ENVIRONMENT)

    def _take_pair(self, pair: str) -> None:
        name, equals, url = pair.partition("=")
        if not equals:
            self._problem("--alias", "write NAME=URL, as in --alias DATA=/data/project")
        else:
            self._take_text("--alias", name, url, Tier.COMMAND_LINE)

    def _take_text(self, place: str, name: str, url: str, tier: Tier) -> None:
        if not ALIAS_NAME.fullmatch(name):
            self._problem(place, name_problem(name))
            return
        try:
            expanded = expand(url, self._environ, self._home)
        except ValueError as exc:
            self._problem(place, f"the value {exc}")
            return
        origin = "--alias" if tier is Tier.COMMAND_LINE else place.rpartition(" ")[2]
        self._add(name, _AliasEntry(url=expanded), tier, origin, base=os.getcwd())

    def _take_section(self, document: Document, section: str, fields: Mapping[Any, object]) -> None:
        known = tuple(field.alias or name for name, field in _SECTIONS[section].model_fields.items())
        self._refuse_unknown(document, (section,), fields, known)
        for key in known:
            if key not in fields:
                continue
            value = self._expand(document, (section, key), fields[key])
            if key in ("file_mode", "dir_mode") and isinstance(value, int) and not isinstance(value, OctalInt):
                self._problem(
                    document.place((section, key)), f"{section}.{key} is not octal; write '0644' in quotes, or 0o644"
                )
                continue
            self._sections[section][key] = _Given(value, document.place((section, key)))

    def _settings(self, section: str, model: type[SectionT]) -> SectionT | None:
        given = self._sections[section]
        try:
            return model.model_validate({key: item.value for key, item in given.items()})
        except ValidationError as exc:
            self._explain(exc, section, lambda loc: given[loc[0]].place)
            return None

    def _expand(self, document: Document, keys: tuple[str, ...], value: object) -> object:
        """Return *value* with `~` and `${VAR}` replaced in every string of it."""
        if isinstance(value, Mapping):
            return {key: self._expand(document, (*keys, str(key)), below) for key, below in value.items()}
        if isinstance(value, list):
            return [self._expand(document, keys, item) for item in value]
        if not isinstance(value, str):
            return value
        try:
            return expand(value, self._environ, self._home)
        except ValueError as exc:
            self._problem(document.place(keys), f"{'.'.join(keys)} {exc}")
            return value

    def _refuse_unknown(
        self, document: Document, keys: tuple[str, ...], fields: Mapping[Any, object], known: Sequence[str]
    ) -> None:
        for key in fields:
            if key not in known:
                place = document.place((*keys, str(key)))
                self._problem(place, f"unknown key {key!r} in {'.'.join(keys)}; {_suggest(key, known)}")

    def _explain(self, error: ValidationError, where: str, place: Callable[[tuple[str, ...]], str]) -> None:
        """Note pydantic's complaints, without the values it complains of."""
        for item in error.errors(include_input=False, include_url=False, include_context=False):
            if item["type"] == "default_factory_not_called":  # it only follows from another complaint
                continue
            loc = tuple(str(part) for part in item["loc"])
            said = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            self._problem(place(loc), f"{'.'.join((where, *loc))} {said[0].lower()}{said[1:]}")

    def _problem(self, place: str, sentence: str) -> None:
        self._problems.append(f"{place}: {sentence}")

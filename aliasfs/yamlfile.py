"""YAML 1.2 files that people edit too: read with the place of every value, changed without touching the rest.

Reading keeps file, line and column of each key and value. A change splices text: only the lines of the
entry concerned are rewritten, so comments, order, quoting and spacing elsewhere stay byte for byte. The
result is read again before it is saved and must say exactly what was asked for. Saving is atomic (a
temporary file beside the target, fsync, rename) and one editor works at a time (a lock file).
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.scalarint import OctalInt

from aliasfs import yamlsplice
from aliasfs.errors import AccessDenied, ConfigError
from aliasfs.yamlsplice import KeyPath

__all__ = ["Document", "OctalInt", "edit", "parse", "read"]

_LOCK_WAIT_S = 10.0  # an edit takes milliseconds; an editor that holds the lock this long has hung
_LOCK_POLL_S = 0.05
_DEEPEST = 20  # a node that contains itself through an anchor has no end
_QUOTED = re.compile(r"""(["']).{2,}?\1|(?<=alias ).*""")


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file: *content* is its plain top-level mapping, *places* the line of each key path."""

    path: Path
    text: str
    content: Mapping[str, Any]
    places: Mapping[KeyPath, int]

    def place(self, keys: Sequence[str] = ()) -> str:
        """Return `FILE:LINE` of the entry *keys*, or of the nearest one above it that exists."""
        for depth in range(len(keys), 0, -1):
            line = self.places.get(tuple(keys[:depth]))
            if line is not None:
                return f"{self.path}:{line}"
        return str(self.path)


def read(path: Path, *, missing_ok: bool = False) -> Document:
    """Return the parsed content of *path*, empty when it is absent and *missing_ok*; blocks on the disk.

    Raises ConfigError with file, line and column when it cannot be read or is not one YAML mapping
    without duplicate keys, AccessDenied when this user may not read it.
    """
    try:
        return parse(path, path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if missing_ok:
            return Document(path, "", {}, {})
        raise ConfigError(
            f"{path}: there is no such file; make one with 'aliasfs alias add NAME URL --config {path}'"
        ) from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: byte {exc.start} is not UTF-8; save the file as UTF-8") from None
    except PermissionError:
        raise AccessDenied(f"{path}: this user may not read it; run this as its owner, or with sudo") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None


def parse(path: Path, text: str) -> Document:
    """Return the parsed *text*, which came from, or is meant for, the file *path*."""
    with _one_sentence(path, text):
        root = yamlsplice.compose(text)
    if root is None or (isinstance(root, ScalarNode) and not root.value):
        return Document(path, text, {}, {})
    if not isinstance(root, MappingNode):
        raise ConfigError(
            f"{path}:{root.start_mark.line + 1}: the file must be a mapping, such as 'aliases:' with names below it"
        )
    with _one_sentence(path, text):
        content = _plain(YAML().load(text))
    return Document(path, text, content, dict(_places(root, ())))


def edit(path: Path, change: Callable[[Editor], None], check: Callable[[Path, str], None]) -> None:
    """Apply *change* to the file *path* and save it, if *check* finds nothing wrong with the new text.

    Blocks on the disk, and up to ten seconds while another editor holds the file. *check* raises to
    refuse, and the file is then untouched. A file that does not exist is made, readable by its owner
    only. A symbolic link stays one: the file it leads to is replaced, with its mode and owner kept.
    """
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        with _locked(real):
            text = read(real, missing_ok=True).text
            editor = Editor(path, text)
            change(editor)
            if editor.text == text:
                return
            check(path, editor.text)
            _replace(real, editor.text)
    except PermissionError as exc:
        raise ConfigError(
            f"{path}: cannot be changed: {exc.strerror}; run this as the file's owner, or with sudo"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be changed: {exc.strerror}") from None


class Editor:
    """The text of one file under change; every method leaves `text` parseable or raises ConfigError."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    @property
    def content(self) -> Mapping[str, Any]:
        """The plain top-level mapping that the text says now."""
        return parse(self.path, self.text).content

    def put(self, keys: KeyPath, value: object) -> None:
        """Give the entry *keys* the plain *value*, making the mappings above it where they are missing."""
        wanted = _with(self.content, keys, value)
        with _one_sentence(self.path, self.text):
            self._accept(yamlsplice.put(self.text, keys, value), wanted)

    def drop(self, keys: KeyPath) -> None:
        """Take the entry *keys* out; comments around it stay. Raises KeyError when it is not there."""
        wanted = _without(self.content, keys)
        with _one_sentence(self.path, self.text):
            self._accept(yamlsplice.drop(self.text, keys), wanted)

    def _accept(self, text: str, wanted: Mapping[str, Any]) -> None:
        """Take *text* over when it says *wanted*: anchors and unusual layouts may defeat the splice."""
        try:
            said = parse(self.path, text).content
        except ConfigError:
            said = {}
        if _without_nulls(said) != _without_nulls(wanted):
            raise ConfigError(
                f"{self.path}: this file is laid out in a way that cannot be edited safely; edit it by hand"
            )
        self.text = text


def _with(mapping: Mapping[str, Any], keys: KeyPath, value: object) -> dict[str, Any]:
    """Return a copy of *mapping* with the entry *keys* set."""
    if len(keys) == 1:
        return {**mapping, keys[0]: value}
    below = mapping.get(keys[0])
    return {**mapping, keys[0]: _with(below if isinstance(below, Mapping) else {}, keys[1:], value)}


def _without(mapping: Mapping[str, Any], keys: KeyPath) -> dict[str, Any]:
    """Return a copy of *mapping* without the entry *keys*; raises KeyError when it is not there."""
    below = mapping[keys[0]]
    if len(keys) == 1:
        return {name: value for name, value in mapping.items() if name != keys[0]}
    if not isinstance(below, Mapping):
        raise KeyError(keys[-1])
    return {**mapping, keys[0]: _without(below, keys[1:])}


def _without_nulls(value: object) -> object:
    """Return *value* with null and empty mappings left out: a mapping whose last entry goes reads as null."""
    if not isinstance(value, Mapping):
        return value
    kept = {name: _without_nulls(below) for name, below in value.items()}
    return {name: below for name, below in kept.items() if below is not None and below != {}}


@contextmanager
def _one_sentence(path: Path, text: str) -> Iterator[None]:
    """Turn ruamel's errors into ConfigError with file, line, column, and none of the file's values."""
    try:
        yield
    except DuplicateKeyError as exc:
        mark = exc.problem_mark
        key = text[mark.index :].partition(":")[0].strip()
        raise ConfigError(f"{_at(path, mark)}: the key {key} is given twice; keep one of them") from None
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        problem = _QUOTED.sub("...", str(exc.problem or exc.context)).splitlines()[0]
        raise ConfigError(f"{_at(path, mark)}: this is not YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: its mappings are nested too deeply; a configuration needs four levels") from None
    except YAMLError:
        raise ConfigError(f"{path}: this is not YAML text: it holds a character that YAML forbids") from None


def _at(path: Path, mark: Any) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)


def _plain(value: Any) -> Any:
    """Return *value* made of plain dict, list and scalars; an octal int keeps its class."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (str, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, int) and not isinstance(value, bool | OctalInt):
        return int(value)
    return value


def _places(node: Node, above: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Yield the key path and line, from 1, of every entry below the mapping *node*."""
    if isinstance(node, MappingNode) and len(above) < _DEEPEST:
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                keys = (*above, key.value)
                yield keys, key.start_mark.line + 1
                yield from _places(value, keys)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the right to edit *target*: a lock file beside it, which stays (removing one is a race)."""
    lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"{target}: another program is editing this file; try again when it is done"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _replace(target: Path, text: str) -> None:
    """Put *text* in place of *target* in one step that survives a crash; mode and owner stay."""
    before = target.stat() if target.exists() else None
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if before is not None:
                made = os.fstat(file.fileno())
                if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), before.st_mode & 0o7777)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

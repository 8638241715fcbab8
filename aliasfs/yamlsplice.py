"""Changes to YAML text that rewrite one entry and leave every other byte as it is; pure.

Works on the node tree, whose marks are offsets into the text. An entry of a block mapping is spliced by
whole lines; a change within a flow collection (`{a: 1}`) rewrites that collection alone. Unusual layouts
(anchors used twice, end-of-document marks) may come out wrong, so the caller reads the result again and
compares before it trusts it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

KeyPath = tuple[str, ...]
"""The keys that lead to a value, outermost first."""

_INDENT = 2
_NEVER_FOLD = 1 << 20  # a folded URL or secret is hard to read and easy to break


def compose(text: str) -> Node | None:
    """Return the node tree of the one document in *text*, None when it is empty; raises ruamel's YAMLError."""
    root: Node | None = YAML().compose(text)
    return root


def put(text: str, keys: KeyPath, value: object) -> str:
    """Return *text* with the entry *keys* set to the plain *value*; mappings on the way are made."""
    node = compose(text)
    step = _step(node)
    if not isinstance(node, MappingNode):
        return _insert(text, len(text), _lines(_nested(keys, value), 0))
    for depth, name in enumerate(keys):
        rest = keys[depth + 1 :]
        if node.flow_style:
            return _put_in_flow(text, node, keys[depth:], value)
        entry = _entry(node, name)
        if entry is None:
            column = node.value[0][0].start_mark.column
            return _insert(text, _line_end(text, *node.value[-1]), _lines({name: _nested(rest, value)}, column, step))
        if not rest or not isinstance(entry[1], MappingNode):
            return _replace(text, *entry, _nested(rest, value), step)
        node = entry[1]
    return text


def drop(text: str, keys: KeyPath) -> str:
    """Return *text* without the lines of the entry *keys*; raises KeyError when it is not there."""
    node = compose(text)
    for depth, name in enumerate(keys):
        if not isinstance(node, MappingNode):
            break
        if node.flow_style:
            return _drop_in_flow(text, node, keys[depth:])
        entry = _entry(node, name)
        if entry is None:
            break
        key, node = entry
        if depth == len(keys) - 1:
            return text[: key.start_mark.index - key.start_mark.column] + text[_line_end(text, *entry) :]
    raise KeyError(keys[-1])


def _nested(keys: KeyPath, value: object) -> object:
    for name in reversed(keys):
        value = {name: value}
    return value


def _entry(mapping: MappingNode, name: str) -> tuple[Node, Node] | None:
    """Return the key and value nodes of *name* in *mapping*, None when it has no such key."""
    for key, value in mapping.value:
        if isinstance(key, ScalarNode) and key.value == name:
            return key, value
    return None


def _after_colon(text: str, key: Node) -> int:
    """Return the offset just behind the colon that ends *key*."""
    return text.index(":", key.end_mark.index) + 1


def _is_empty(node: Node) -> bool:
    """Say whether *node* is a null that takes no room in the text (its marks then point further on)."""
    return isinstance(node, ScalarNode) and bool(node.start_mark.index == node.end_mark.index)


def _content_end(text: str, key: Node, value: Node) -> int:
    """Return the offset just behind the last character of an entry, comments and blank lines left out."""
    if _is_empty(value):
        return _after_colon(text, key)
    if isinstance(value, MappingNode) and not value.flow_style and value.value:
        return _content_end(text, *value.value[-1])
    if isinstance(value, ScalarNode) and value.style in ("|", ">"):
        return len(text[: value.end_mark.index].rstrip(" \t\r\n"))
    return max(int(value.end_mark.index), _after_colon(text, key))


def _line_end(text: str, key: Node, value: Node) -> int:
    """Return the offset where the line after the entry begins."""
    newline = text.find("\n", _content_end(text, key, value))
    return len(text) if newline < 0 else newline + 1


def _insert(text: str, offset: int, lines: str) -> str:
    before, after = text[:offset], text[offset:]
    newline = "\r\n" if "\r\n" in text else "\n"
    if before and not before.endswith("\n"):
        before += newline
    return before + lines.replace("\n", newline) + after


def _replace(text: str, key: Node, old: Node, value: object, step: int) -> str:
    """Return *text* with the value of one block entry replaced; a comment behind it stays."""
    end = _content_end(text, key, old)
    is_block = isinstance(value, Mapping) and bool(value)
    on_key_line = not _is_empty(old) and (not isinstance(old, MappingNode) or old.flow_style)
    start = old.start_mark.index if on_key_line and not is_block else _after_colon(text, key)
    if is_block:
        newline = "\r\n" if "\r\n" in text else "\n"
        new = newline + _lines(value, key.start_mark.column + step, step).rstrip("\n").replace("\n", newline)
    else:
        new = _inline(value) if start == old.start_mark.index and on_key_line else f" {_inline(value)}"
    return text[:start] + new + text[end:]


def _put_in_flow(text: str, node: MappingNode, keys: KeyPath, value: object) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    mapping = _round_trip().load(text[start:end])
    target = mapping
    for name in keys[:-1]:
        if not isinstance(target.get(name), dict):
            target[name] = {}
        target = target[name]
    target[keys[-1]] = value
    return text[:start] + _inline(mapping) + text[end:]


def _drop_in_flow(text: str, node: MappingNode, keys: KeyPath) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    mapping = _round_trip().load(text[start:end])
    target = mapping
    for name in keys[:-1]:
        target = target[name]
    del target[keys[-1]]
    return text[:start] + _inline(mapping) + text[end:]


def _lines(value: object, column: int, step: int = _INDENT) -> str:
    """Return the mapping *value* as block-style lines that begin at *column*, each level *step* further in."""
    margin = " " * column
    return "".join(f"{margin}{line}\n" for line in _dump(value, flow=False, step=step).split("\n"))


def _inline(value: object) -> str:
    """Return *value* as it is written behind a key, on one line."""
    if isinstance(value, dict | list):
        return _dump(value, flow=True)
    return _dump({"k": value}, flow=False).removeprefix("k:").strip(" ")


def _dump(value: Any, *, flow: bool, step: int = _INDENT) -> str:
    yaml = _round_trip()
    yaml.default_flow_style = flow
    yaml.indent = step
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().rstrip("\n")


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _NEVER_FOLD
    return yaml


def _step(node: Node | None) -> int:
    """Return by how many columns the file indents: the first nested block mapping shows it."""
    if isinstance(node, MappingNode) and not node.flow_style:
        for key, value in node.value:
            if isinstance(value, MappingNode) and not value.flow_style and value.value:
                return int(value.value[0][0].start_mark.column - key.start_mark.column)
    return _INDENT

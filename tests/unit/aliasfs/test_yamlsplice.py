import difflib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from aliasfs.yamlsplice import drop, put

FILE = """\
# the top
aliases:
    # first
    A:   "/x"   # trailing

    B:
        url: s3://b/p    # where
        options: {endpoint_url: 'http://x:1',   key: "${K}"}
    C: |
        literal

    EMPTY:   # nothing yet
    # end of aliases

# the cache
cache: {size:   20GB}
"""


def changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("aliases", "NEW"), "/new", ["+     NEW: /new"]),
        (("aliases", "A"), "/y", ['-     A:   "/x"   # trailing', "+     A:   /y   # trailing"]),
        (
            ("aliases", "B", "url"),
            "s3://b/q",
            ["-         url: s3://b/p    # where", "+         url: s3://b/q    # where"],
        ),
        (("aliases", "B", "ttl"), 5, ["+         ttl: 5"]),
        (
            ("aliases", "B", "options", "key"),
            "k: v",
            [
                "-         options: {endpoint_url: 'http://x:1',   key: \"${K}\"}",
                "+         options: {endpoint_url: 'http://x:1', key: \"k: v\"}",
            ],
        ),
        (
            ("aliases", "NEW"),
            {"url": "/n", "options": {"a": {"b": True}}},
            [
                "+     NEW:",
                "+         url: /n",
                "+         options:",
                "+             a:",
                "+                 b: true",
            ],
        ),
        (
            ("aliases", "EMPTY"),
            "/e",
            ["-     EMPTY:   # nothing yet", "+     EMPTY: /e   # nothing yet"],
        ),
        (("daemon", "log_level"), "debug", ["+ daemon:", "+     log_level: debug"]),
        (("cache", "dir"), "/c", ["- cache: {size:   20GB}", "+ cache: {size: 20GB, dir: /c}"]),
    ],
)
def test_put_touches_only_the_lines_of_the_entry(keys: tuple[str, ...], value: object, expected: list[str]) -> None:
    after = put(FILE, keys, value)
    assert changed_lines(FILE, after) == expected
    found = load(after)
    for key in keys:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("aliases", "A"), ['-     A:   "/x"   # trailing']),
        (("aliases", "C"), ["-     C: |", "-         literal"]),
        (("aliases", "EMPTY"), ["-     EMPTY:   # nothing yet"]),
        (("cache",), ["- cache: {size:   20GB}"]),
        (("cache", "size"), ["- cache: {size:   20GB}", "+ cache: {}"]),
    ],
)
def test_drop_takes_only_the_lines_of_the_entry(keys: tuple[str, ...], expected: list[str]) -> None:
    assert changed_lines(FILE, drop(FILE, keys)) == expected


@pytest.mark.parametrize("keys", [("nope",), ("aliases", "NOPE"), ("aliases", "A", "url"), ("cache", "nope")])
def test_dropping_what_is_not_there_is_a_key_error(keys: tuple[str, ...]) -> None:
    with pytest.raises(KeyError):
        drop(FILE, keys)


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "# no newline at the end", "aliases:\n", "aliases: {}\n", "{}"]
)
def test_a_file_with_nothing_in_it_takes_a_first_entry(text: str) -> None:
    after = put(text, ("aliases", "A"), "/x")
    assert load(after) == {"aliases": {"A": "/x"}}
    assert after.startswith(text.rstrip("\n{} :")[:9])


def test_line_ends_of_the_file_are_used() -> None:
    assert put("aliases:\r\n  A: /x\r\n", ("aliases", "B"), "/y") == "aliases:\r\n  A: /x\r\n  B: /y\r\n"


names = st.from_regex(r"[A-Z][A-Z0-9_]{0,6}", fullmatch=True)
values = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30),
    st.integers(),
    st.booleans(),
    st.fixed_dictionaries({"url": st.sampled_from(["/x", "s3://b/${P}"]), "ttl": st.integers(0, 9)}),
)


@settings(deadline=None)
@given(st.lists(st.tuples(names, values | st.none()), max_size=8))
def test_any_series_of_edits_says_what_a_dict_says(edits: list[tuple[str, object]]) -> None:
    text, model = FILE, dict(load(FILE)["aliases"])
    for name, value in edits:
        if value is not None:
            text, model[name] = put(text, ("aliases", name), value), value
        elif name in model:
            text = drop(text, ("aliases", name))
            del model[name]
        assert load(text)["aliases"] == (model or None)
    assert [line for line in FILE.splitlines() if line.strip().startswith("#")] == [
        line for line in text.splitlines() if line.strip().startswith("#")
    ]

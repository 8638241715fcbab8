import dataclasses

import pytest

from aliasfs.errors import ConfigError, UnknownAlias
from aliasfs.registry import Alias, Location, Mode, Registry


@pytest.mark.parametrize("name", ["", "lower", "1BAD", "BAD-DASH", "A.B", "_A", "ÄB", "A B", "<A>", "A\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no alias name"):
        Alias(name, "/x")


@pytest.mark.parametrize("name", ["A", "A1", "PROJECT_DATA", "X" * 300])
def test_the_grammar_of_tokens_is_accepted(name: str) -> None:
    assert Alias(name, "/x").name == name


def test_options_never_show_in_repr() -> None:
    assert "hunter2" not in repr(Alias("A", "s3://b", options={"secret": "hunter2"}))


def test_local_is_told_by_the_url() -> None:
    assert Alias("A", "/x").is_local
    assert not Alias("A", "s3://b").is_local


def test_locations_walk_up_and_down() -> None:
    root = Location("A", "")
    leaf = root.child("d").child("f")
    assert leaf == Location("A", "d/f")
    assert (leaf.name, leaf.parent, leaf.parent.parent) == ("f", Location("A", "d"), root)
    assert (root.name, root.parent) == ("A", root)


def test_a_registry_keeps_the_order_and_names_what_is_unknown() -> None:
    registry = Registry([Alias("B", "/b"), Alias("A", "/a")])
    assert [*registry] == ["B", "A"]
    assert "A" in registry
    with pytest.raises(UnknownAlias, match="no alias is named Z"):
        registry["Z"]


def test_changes_tell_new_place_from_new_policy() -> None:
    old = Registry([Alias(name, f"/{name}") for name in ("KEEP", "GONE", "MOVED", "SOONER", "KEYED")])
    new = Registry(
        [
            old["KEEP"],
            dataclasses.replace(old["MOVED"], url="/elsewhere", mode=Mode.RW),
            dataclasses.replace(old["SOONER"], ttl_s=0),
            dataclasses.replace(old["KEYED"], options={"key": "x"}),
            Alias("NEW", "/new"),
        ]
    )
    changes = old.changes_to(new)
    assert changes.added == {"NEW"}
    assert changes.removed == {"GONE"}
    assert changes.retargeted == {"MOVED", "KEYED"}
    assert changes.adjusted == {"SOONER"}
    assert changes
    assert not old.changes_to(old)

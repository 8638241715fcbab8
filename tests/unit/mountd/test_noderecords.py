"""The lines of the table of nodes: what was said is read again, what is damaged says nothing, never another thing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aliasfs.store.base import NO_ETAG, Etag, Kind, LocalMeta, ObjectInfo, directory_info
from mountd.noderecords import (
    MAX_CURSORS,
    CursorRecord,
    NodeRecord,
    Remembered,
    VolumeRecord,
    header,
    line_of,
    node_fields,
    record_in,
)

SESSION = "5e55"
ONE, TWO = VolumeRecord(1, "A", "memory://one", 7), VolumeRecord(2, "B", "/two", 8)
FILE = ObjectInfo("d/a", Kind.FILE, 3, 123, Etag('"e"'))
LINK = ObjectInfo("l", Kind.SYMLINK, 3, 123, NO_ETAG)
ODD = ObjectInfo("\udcff/ü\n", Kind.FILE, 9, 1, Etag("1-2-9-1"), LocalMeta(1, 2, 0o100644, 3, 4))
NODES = (
    NodeRecord(2, 1, FILE, 1),
    NodeRecord(3, 2, ODD, 4),
    NodeRecord(4, 1, directory_info("d"), 1),
    NodeRecord(5, 1, LINK, 2),
)


def _i(*nodes: NodeRecord) -> dict[str, object]:
    return {"i": [node_fields(*node) for node in nodes]}


LINES = [
    line_of(header(SESSION, 99)),
    line_of({"v": [ONE, TWO]}),
    *(line_of(_i(node)) for node in NODES),
    line_of({"l": [2, 5]}),
    line_of({"c": [CursorRecord(4, 77, 0, "a/b/\udcff")]}),
    line_of({"f": [(3, 3), (5, 3)]}),
    line_of({"c": [CursorRecord(4, 77, 3, "d")]}),
    line_of({"l": [2]} | _i(NodeRecord(6, 2, LINK, 1))),
]


def _read(lines: list[bytes], session: str = SESSION) -> Remembered:
    remembered = Remembered.of(lines, session)
    assert remembered is not None
    return remembered


def test_what_was_said_is_read_again() -> None:
    remembered = _read(LINES)
    assert remembered.started_ns == 99
    assert remembered.volumes == {1: ONE, 2: TWO}
    assert remembered.nodes == [
        NodeRecord(2, 1, FILE, 3),
        NodeRecord(3, 2, ODD, 1),
        NodeRecord(4, 1, directory_info("d"), 1),
        NodeRecord(6, 2, LINK, 1),
    ]
    assert remembered.cursors() == [CursorRecord(4, 77, 0, "a/b/\udcff/d")]
    assert (remembered.next_number, remembered.next_volume, remembered.damaged) == (7, 3, 0)


def test_a_table_of_another_session_or_format_or_none_at_all_is_nothing() -> None:
    assert Remembered.of(LINES, "another") is None
    assert Remembered.of([line_of({"aliasfs-nodes": 0, "session": SESSION}), *LINES[1:]], SESSION) is None
    assert Remembered.of(LINES[1:], SESSION) is None
    assert Remembered.of([], SESSION) is None
    assert Remembered.of([b"\xff\xfe\n"], SESSION) is None


def test_what_a_later_version_adds_is_passed_over() -> None:
    fields = (*node_fields(*NODES[1]), "new", 5)
    remembered = _read([*LINES[:2], line_of({"i": [fields], "z": 3}), line_of({"y": [1]})])
    assert remembered.nodes == [NODES[1]]


@pytest.mark.parametrize("lost", range(1, len(LINES)))
def test_a_damaged_line_hides_no_other(lost: int) -> None:
    damaged = [line if at != lost else b"\0" + line[1:] for at, line in enumerate(LINES)]
    remembered = _read(damaged)
    without = _read([line for at, line in enumerate(LINES) if at != lost])
    assert remembered.nodes == without.nodes
    assert remembered.damaged == 1


def _identities(remembered: Remembered | None) -> set[tuple[int, VolumeRecord, ObjectInfo]]:
    if remembered is None:
        return set()
    return {(node.number, remembered.volumes[node.volume], node.info) for node in remembered.nodes}


TRUTH = {(node.number, {1: ONE, 2: TWO}[node.volume], node.info) for node in (*NODES, NodeRecord(6, 2, LINK, 1))}


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def test_cut_anywhere_it_says_what_was_said_before() -> None:
    content = b"".join(LINES)
    ends = list(itertools.accumulate(map(len, LINES)))
    for stop in range(len(content) + 1):
        remembered = Remembered.of([line for line in _lines(content[:stop]) if line.endswith(b"\n")], SESSION)
        whole = LINES[: sum(end <= stop for end in ends)]
        if not whole:
            assert remembered is None
            continue
        expected = _read(whole)
        assert remembered is not None
        assert (remembered.nodes, remembered.cursors()) == (expected.nodes, expected.cursors())


def test_with_one_flipped_byte_anywhere_no_number_means_something_else() -> None:
    content = b"".join(LINES)
    for at in range(len(content)):
        for bits in (0x01, 0x20, 0xFF, content[at] ^ 0x0A):
            damaged = content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :]
            assert _identities(Remembered.of(_lines(damaged), SESSION)) <= TRUTH


@given(st.data())
def test_torn_apart_no_number_means_something_else(data: st.DataObject) -> None:
    content = bytearray(b"".join(LINES))
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(len(content), start + 200)))
        content[start:stop] = data.draw(st.one_of(st.binary(max_size=20), st.just(bytes(stop - start))))
    assert _identities(Remembered.of(_lines(bytes(content)), SESSION)) <= TRUTH


@given(st.text(st.characters(exclude_categories=())), st.integers(0, 2**63), st.text())
def test_any_name_survives(key: str, size: int, etag: str) -> None:
    node = NodeRecord(2**62, 1, ObjectInfo(key, Kind.FILE, size, -1, Etag(etag)), 1)
    assert _read([LINES[0], LINES[1], line_of(_i(node))]).nodes == [node]


def test_a_line_without_an_end_is_no_line() -> None:
    assert record_in(LINES[1]) is not None
    assert record_in(LINES[1][:-1]) is None
    assert record_in(b"") is None


def test_a_number_of_a_volume_that_was_lost_is_not_given_again() -> None:
    remembered = _read([LINES[0], line_of(_i(NodeRecord(9, 41, FILE, 1)))])
    assert remembered.nodes == []
    assert (remembered.next_volume, remembered.next_number) == (42, 10)


def test_nodes_of_a_retired_volume_are_gone() -> None:
    assert [node.number for node in _read([*LINES, line_of({"r": [1]})]).nodes] == [3, 6]


def test_a_node_that_is_written_again_has_the_count_of_the_last_time() -> None:
    again = NodeRecord(2, 1, FILE, 8)
    remembered = _read([*LINES[:3], line_of({"l": [2, 2]}), line_of(_i(again)), line_of({"f": [(2, 1)]})])
    assert remembered.nodes == [again._replace(lookups=7)]


# readers of directories


def _cursors(*records: CursorRecord) -> list[tuple[int, str]]:
    remembered = _read([LINES[0], *(line_of({"c": [record]}) for record in records)])
    return [(cursor.generation, cursor.names) for cursor in remembered.cursors()]


def test_a_reader_that_goes_back_is_where_it_went_on() -> None:
    moves = CursorRecord(4, 1, 0, "a/b/c"), CursorRecord(4, 1, 1, "x"), CursorRecord(4, 1, 2, "y/z")
    assert _cursors(*moves) == [(1, "a/x/y/z")]


def test_after_a_gap_nothing_is_known_but_what_was_before_it() -> None:
    assert _cursors(CursorRecord(4, 1, 0, "a"), CursorRecord(4, 1, 2, "c")) == [(1, "a")]
    assert _cursors(CursorRecord(4, 1, 2, "c")) == []


def test_a_reader_that_is_at_the_end_is_forgotten() -> None:
    remembered = _read([*LINES, line_of({"e": (4, 77)}), line_of({"e": (4, 78)})])
    assert remembered.cursors() == []


def test_those_who_have_not_moved_for_longest_are_forgotten_first() -> None:
    begun = [CursorRecord(4, generation, 0, "a") for generation in range(1, MAX_CURSORS + 1)]
    moved = CursorRecord(4, 1, 1, "b")
    found = _cursors(*begun, moved, CursorRecord(4, 9999, 0, "a"))
    assert len(found) == MAX_CURSORS
    assert (1, "a/b") in found
    assert (2, "a") not in found

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aliasfs.extents import Extent, ExtentMap

SIZE = 64

extents = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: Extent(min(pair), max(pair)))


class ExtentMapAgainstBytes(RuleBasedStateMachine):
    """An ExtentMap must hold exactly the positions that a bytearray has marked."""

    def __init__(self) -> None:
        super().__init__()
        self.map = ExtentMap()
        self.bytes = bytearray(SIZE)

    @rule(extent=extents)
    def add(self, extent: Extent) -> None:
        self.map.add(extent)
        self.bytes[extent.start : extent.stop] = b"\x01" * extent.length

    @rule(extent=extents)
    def remove(self, extent: Extent) -> None:
        self.map.remove(extent)
        self.bytes[extent.start : extent.stop] = bytes(extent.length)

    @rule(extent=extents)
    def missing_and_covers(self, extent: Extent) -> None:
        absent = {i for i in range(extent.start, extent.stop) if not self.bytes[i]}
        gaps = self.map.missing(extent)
        assert [i for gap in gaps for i in range(*gap)] == sorted(absent)
        assert all(gap.length > 0 for gap in gaps)
        assert self.map.covers(extent) == (not absent)

    @invariant()
    def holds_the_same_positions(self) -> None:
        assert {i for extent in self.map for i in range(*extent)} == {i for i in range(SIZE) if self.bytes[i]}
        assert self.map.total_bytes == sum(self.bytes)

    @invariant()
    def extents_are_sorted_and_apart(self) -> None:
        pieces = list(self.map)
        assert len(pieces) == len(self.map)
        assert all(piece.start < piece.stop for piece in pieces)
        assert all(a.stop < b.start for a, b in itertools.pairwise(pieces))


TestExtentMap = ExtentMapAgainstBytes.TestCase
TestExtentMap.settings = settings(deadline=None)


@settings(deadline=None)
@given(extents, st.integers(1, 17))
def test_blocks_are_those_that_hold_a_byte_of_the_extent(extent: Extent, block_bytes: int) -> None:
    assert set(extent.blocks(block_bytes)) == {i // block_bytes for i in range(extent.start, extent.stop)}


@settings(deadline=None)
@given(extents, st.integers(0, SIZE))
def test_clip_keeps_what_lies_within_the_object(extent: Extent, size: int) -> None:
    clipped = extent.clip(size)
    assert [*range(*clipped)] == [i for i in range(*extent) if i < size]
    assert clipped.start <= clipped.stop


@settings(deadline=None)
@given(st.lists(extents))
def test_a_map_does_not_depend_on_the_order_of_its_parts(parts: list[Extent]) -> None:
    assert list(ExtentMap(parts)) == list(ExtentMap(reversed(parts)))

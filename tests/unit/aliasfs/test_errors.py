from collections.abc import Iterator

import pytest

from aliasfs import errors
from aliasfs.errors import AliasfsError, exit_code


def every_class(root: type[AliasfsError] = AliasfsError) -> Iterator[type[AliasfsError]]:
    for cls in root.__subclasses__():
        yield cls
        yield from every_class(cls)


@pytest.mark.parametrize("cls", sorted(set(every_class()), key=lambda cls: cls.__name__))
def test_every_class_has_an_exit_code_that_says_more_than_bug(cls: type[AliasfsError]) -> None:
    code = exit_code(cls("x"))
    assert 64 <= code <= 78
    if cls is not errors.BadHandle:
        assert code != 70


def test_a_class_without_a_row_takes_its_parents_code() -> None:
    class Special(errors.StoreTimeout):
        pass

    assert exit_code(Special("x")) == exit_code(errors.StoreTimeout("x")) == 75


def test_any_other_exception_is_a_bug_of_ours() -> None:
    assert exit_code(RuntimeError("x")) == 70


def test_every_row_of_the_table_is_a_class_of_the_tree() -> None:
    assert {*errors.EXIT_CODES} <= {AliasfsError, *every_class()}

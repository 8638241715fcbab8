"""Every class of ours has an errno, and the right one."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from aliasfs import errors
from mountd.errnos import errno_of


def _all(cls: type[Exception]) -> Iterator[type[Exception]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _all(sub)


@pytest.mark.parametrize("cls", sorted(set(_all(errors.AliasfsError)), key=lambda cls: cls.__name__))
def test_no_error_means_enosys_which_the_kernel_would_remember_for_the_whole_mount(cls: type[Exception]) -> None:
    assert errno_of(cls("x")) in errno.errorcode
    assert errno_of(cls("x")) not in (0, errno.ENOSYS)


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (errors.NotFound, errno.ENOENT),
        (errors.UnknownAlias, errno.ENOENT),
        (errors.NotADirectory, errno.ENOTDIR),
        (errors.IsADirectory, errno.EISDIR),
        (errors.InvalidName, errno.EINVAL),
        (errors.NameTooLong, errno.ENAMETOOLONG),
        (errors.BadHandle, errno.EBADF),
        (errors.NoAttribute, errno.ENODATA),
        (errors.AccessDenied, errno.EACCES),
        (errors.ReadOnly, errno.EROFS),
        (errors.NotSupported, errno.EOPNOTSUPP),
        (errors.OutOfSpace, errno.ENOSPC),
        (errors.StoreError, errno.EIO),
        (errors.StaleObject, errno.ESTALE),
        (errors.StoreTimeout, errno.ETIMEDOUT),
        (errors.StoreUnavailable, errno.EIO),
        (errors.CorruptObject, errno.EIO),
        (ValueError, errno.EIO),
    ],
)
def test_what_each_error_means_to_the_kernel(cls: type[Exception], code: int) -> None:
    assert errno_of(cls("x")) == code


def test_a_class_that_is_not_in_the_table_means_what_its_parent_means() -> None:
    class Archived(errors.AccessDenied):
        pass

    assert errno_of(Archived("in a glacier")) == errno.EACCES

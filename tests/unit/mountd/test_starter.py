"""What a starter hears on its pipe, and that it need not be there."""

from __future__ import annotations

import json
import os

import pytest

from aliasfs.wire import Readiness
from mountd.starter import Starter


def test_the_first_word_is_the_only_one() -> None:
    reader, writer = os.pipe()
    starter = Starter(writer)
    assert not os.get_inheritable(writer)
    starter.tell(ready=False, error="no\nmount", exit=69)
    starter.tell(ready=True)
    with open(reader, "rb") as pipe:
        lines = pipe.readlines()
    assert [Readiness.model_validate_json(line) for line in lines] == [
        Readiness(ready=False, pid=os.getpid(), error="no\nmount", exit=69)
    ]


def test_a_start_that_succeeds_says_who_keeps_the_mount() -> None:
    reader, writer = os.pipe()
    Starter(writer).tell(ready=True)
    with open(reader, "rb") as pipe:
        assert json.loads(pipe.read()) == {"pid": os.getpid(), "ready": True}


def test_a_starter_that_has_gone_is_not_missed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Starter(writer).tell(ready=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


def test_nobody_has_to_be_told() -> None:
    Starter(None).tell(ready=True)

"""How readily the kernel ends the keeper when memory runs out: real files, the kernel's own where we may write it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mountd import oomscore

SAY_BOTH = "from mountd import oomscore; print(oomscore.become_unlikely_victim(), oomscore.OWN.read_text())"


@pytest.mark.parametrize(("given", "own"), [(0, -900), (300, -900), (-950, -950), (-1000, -1000)])
def test_the_keepers_score_is_lowered_and_servers_get_the_given_one(
    given: int, own: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text(f"{given}\n")
    monkeypatch.setattr(oomscore, "OWN", score)
    assert oomscore.become_unlikely_victim() == given
    assert int(score.read_text()) == own


def test_where_it_cannot_be_lowered_servers_are_made_likelier_victims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NotOurs(type(tmp_path)):  # type: ignore[misc]
        """A file that can be read only, also by root."""

        def write_text(self, *_args: object, **_named: object) -> int:
            raise PermissionError

    score = NotOurs(tmp_path / "oom_score_adj")
    (tmp_path / "oom_score_adj").write_text("0\n")
    monkeypatch.setattr(oomscore, "OWN", score)
    assert oomscore.become_unlikely_victim() == oomscore.SERVER_EXTRA


def test_the_kernel_takes_it() -> None:
    said = subprocess.run([sys.executable, "-c", SAY_BOTH], capture_output=True, text=True, check=True, timeout=30)
    for_servers, own = (int(word) for word in said.stdout.split())
    assert own <= oomscore.KEEPER or for_servers == own + oomscore.SERVER_EXTRA

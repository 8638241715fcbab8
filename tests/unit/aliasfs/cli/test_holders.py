"""Who keeps a mount busy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aliasfs.cli.holders import holders


def test_links_of_proc_are_enough(tmp_path: Path) -> None:
    proc, point = tmp_path / "proc", Path("/mnt/aliases")
    for pid, links in {
        "1": {"cwd": "/", "exe": "/sbin/init"},
        "20": {"cwd": "/mnt/aliases/A", "exe": "/bin/bash"},
        "30": {"cwd": "/", "fd/5": "/mnt/aliases/A/file"},
        "40": {"cwd": "/mnt/aliases-of-another"},
        "50": {"root": "/mnt/aliases"},
    }.items():
        (proc / pid / "fd").mkdir(parents=True)
        (proc / pid / "comm").write_text(f"c{pid}\n")
        for link, target in links.items():
            (proc / pid / link).symlink_to(target)
    (proc / "60").mkdir()
    (proc / "60" / "maps").write_text("7f0-7f1 r--p 0000 00:34 7   /mnt/aliases/A/with space\n7f1-7f2 rw-p 0 00:00 0\n")
    (proc / "net").mkdir()
    assert [str(holder) for holder in holders(point, proc)] == [
        "c20 (pid 20, working directory /mnt/aliases/A)",
        "c30 (pid 30, open file /mnt/aliases/A/file)",
        "c50 (pid 50, root directory /mnt/aliases)",
        "a process (pid 60, mapped file /mnt/aliases/A/with space)",
    ]


def test_a_real_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        found = holders(tmp_path)
    assert [(holder.pid, holder.use) for holder in found] == [(process.pid, f"working directory {tmp_path}")]
    assert os.getpid() not in [holder.pid for holder in found]

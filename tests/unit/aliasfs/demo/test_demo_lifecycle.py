import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aliasfs.demo.lifecycle import Demo, mount_demo, write_config
from aliasfs.demo.server import BUCKET
from aliasfs.errors import MountError
from aliasfs.mounts import mount_at

LIMIT_S = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The S3 server of the demo over one small file; its preferred port is taken, its mount point never mounted."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a").write_text("alpha")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = [str(tmp_path / "samples"), str(tmp_path / "point"), str(taken.getsockname()[1])]
        process = subprocess.Popen(
            [sys.executable, "-m", "aliasfs.demo", "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            yield process
            process.kill()


def test_the_server_takes_a_free_port_and_ends_when_nothing_needs_it(server: subprocess.Popen[str]) -> None:
    assert server.stdin
    assert server.stdout
    endpoint = server.stdout.readline().strip()
    assert httpx.get(f"{endpoint}/{BUCKET}/a", timeout=LIMIT_S).text == "alpha"
    server.stdin.close()
    assert server.wait(LIMIT_S) == 0


def test_the_configuration_keeps_what_a_user_wrote_into_it(tmp_path: Path) -> None:
    write_config(Demo("/mnt/x", "http://127.0.0.1:1111"), tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("aliases:", "aliases:\n  MINE: http://127.0.0.1:1111/ # my own"))
    before = path.read_text()
    write_config(Demo("/mnt/x", "http://127.0.0.1:2222"), tmp_path)
    assert path.read_text() == before.replace(
        'endpoint_url: "http://127.0.0.1:1111"', 'endpoint_url: "http://127.0.0.1:2222"'
    )
    assert "MINE: http://127.0.0.1:1111/ # my own" in path.read_text()


def test_a_mount_point_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match=r"cannot make .*: Not a directory; name another"):
        mount_demo(tmp_path / "file" / "point", tmp_path / "state")


class DemoMount:
    """Runs the demo's commands for a mount point and a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.point = folder / "tree"
        self.state = folder / "state"

    def run(self, command: str, point: Path | None = None) -> subprocess.CompletedProcess[str]:
        where = [str(point)] if point else []
        return subprocess.run(
            [sys.executable, "-m", "aliasfs.demo", command, *where, "--state", str(self.state)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def shell(self, script: str) -> str:
        """Return what *script* says in the mounted tree; the time limit holds even where a read would hang."""
        command = ["timeout", "-k", "1", str(LIMIT_S), "sh", "-ec", f"cd {self.point}\n{script}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoMount]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("fusermount3"):
        pytest.skip("needs /dev/fuse and fusermount3")
    demo = DemoMount(tmp_path)
    yield demo
    if mount_at(demo.point):
        demo.run("umount")
    if mount_at(demo.point):
        subprocess.run(["fusermount3", "-uz", str(demo.point)], check=True, timeout=LIMIT_S)


@pytest.mark.mount
def test_the_sample_data_is_the_same_from_disk_and_through_s3(demo: DemoMount) -> None:
    mounted = demo.run("mount", demo.point)
    assert mounted.returncode == 0, mounted.stderr
    assert f"mounted on {demo.point}" in mounted.stdout
    assert demo.shell("ls").split() == ["SAMPLES", "SAMPLES_S3"]
    assert demo.shell(
        "for tree in SAMPLES SAMPLES_S3; do (cd $tree && md5sum -c --quiet checksums.md5 && echo same); done"
    ) == ("same\nsame\n")
    assert demo.shell("cd SAMPLES_S3 && find . | sort") == demo.shell("cd SAMPLES && find . | sort")

    again = demo.run("mount")
    assert again.returncode == 0
    assert f"mounted on {demo.point} already" in again.stdout
    elsewhere = demo.run("mount", demo.point.with_name("other"))
    assert elsewhere.returncode == 69
    assert f"mounted on {demo.point} already" in elsewhere.stderr

    endpoint = json.loads((demo.state / "demo.json").read_text())["endpoint"]
    assert httpx.head(f"{endpoint}/{BUCKET}/README.txt").status_code == 200
    undone = demo.run("umount")
    assert undone.returncode == 0, undone.stderr
    assert mount_at(demo.point) is None

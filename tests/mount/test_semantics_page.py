"""The examples of docs/SEMANTICS.md, run in order in one shell against a real mount."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "SEMANTICS.md"
MARK = "@@ example "

pytestmark = [pytest.mark.mount, pytest.mark.s3]

PUT = """
import sys
from botocore.config import Config
from botocore.session import Session
session = Session()
session.set_credentials("test", "test")
client = session.create_client(
    "s3", endpoint_url=sys.argv[1], region_name="us-east-1", config=Config(s3={"addressing_style": "path"})
)
client.put_object(Bucket="semantics", Key="data/" + sys.argv[2], Body=sys.argv[3].encode() + b"\\n")
"""

SHELL_FUNCTIONS = f"""
put() {{ "$PYTHON" -c '{PUT}' "$S3" "$1" "$2"; }}
wait_ttl() {{ sleep 1.2; }}
kill_the_server() {{ kill -9 "$(getfattr --absolute-names --only-values -n user.aliasfs.server "$MNT")"; }}
"""


class Example(NamedTuple):
    command: str
    expected: str


def examples() -> list[Example]:
    """Return each command of the page with the output that the page shows for it."""
    found: list[Example] = []
    in_block = False
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            in_block = line == "```console"
        elif in_block and line.startswith("$ "):
            found.append(Example(line.removeprefix("$ "), ""))
        elif in_block:
            found[-1] = Example(found[-1].command, f"{found[-1].expected}{line}\n")
    return found


@pytest.fixture
def shell_environment(tmp_path: Path, s3_endpoint: str, s3_client: Any) -> Iterator[dict[str, str]]:
    """Mount DATA and BUCKET as the page says; give the variables of its examples."""
    source, point = tmp_path / "source", tmp_path / "mnt"
    source.mkdir()
    point.mkdir()
    (source / "hello.txt").write_text("hello\n")
    s3_client.create_bucket(Bucket="semantics")
    s3_client.put_object(Bucket="semantics", Key="data/images/label.txt", Body=b"cat\n")
    s3_client.put_object(Bucket="semantics", Key="data//odd", Body=b"cannot be shown")
    config = tmp_path / "config.yaml"
    config.write_text(
        "aliases:\n"
        f"  DATA: {source}\n"
        "  BUCKET:\n"
        "    url: s3://semantics/data\n"
        "    ttl: 1\n"
        f"    options: {{endpoint_url: '{s3_endpoint}', key: test, secret: test}}\n"
        f"cache: {{dir: {tmp_path / 'cache'}, size: 100MB, min_free: 0}}\n"
    )
    aliasfs = [sys.executable, "-c", "from aliasfs.cli import main; main()"]
    subprocess.run([*aliasfs, "mount", str(point), "--config", str(config)], check=True, timeout=60, cwd=REPOSITORY)
    try:
        yield {**os.environ, "MNT": str(point), "SRC": str(source), "S3": s3_endpoint, "PYTHON": sys.executable}
    finally:
        subprocess.run([*aliasfs, "umount", str(point), "--force"], check=True, timeout=60, cwd=REPOSITORY)


def test_every_example_of_the_page_prints_what_the_page_says(shell_environment: dict[str, str]) -> None:
    wanted = examples()
    assert len(wanted) > 15, "the page has lost its examples"
    script = SHELL_FUNCTIONS + "\n".join(f"echo '{MARK}{n}'\n{item.command}" for n, item in enumerate(wanted))
    ran = subprocess.run(
        ["bash", "-c", script], env=shell_environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert ran.stderr == ""
    outputs = [part.partition("\n")[2] for part in ran.stdout.split(MARK)[1:]]
    assert [Example(item.command, output) for item, output in zip(wanted, outputs, strict=True)] == wanted

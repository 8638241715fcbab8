import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "run"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("script", ["run", ".ci/run"])
def test_scripts_are_executable_bash(script: str) -> None:
    assert (REPOSITORY / script).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", REPOSITORY / script], check=True)


def test_help_names_every_command() -> None:
    arms = re.findall(r"^    ([a-z |]+)\)", RUN.read_text().partition("case $command in")[2], re.MULTILINE)
    commands = {name for arm in arms for name in arm.split(" | ")} - {"help"}
    assert commands >= {"setup", "mount", "umount", "test", "check", "bench"}
    shown = run("help").stdout
    for command in commands:
        assert re.search(rf"^  {command}\b", shown, re.MULTILINE), command


def test_no_command_shows_the_help() -> None:
    assert run().stdout == run("--help").stdout == run("help").stdout != ""


def test_an_unknown_command_is_refused_with_the_help() -> None:
    refused = run("mounty")
    assert refused.returncode == 64
    assert refused.stderr == run("help").stdout

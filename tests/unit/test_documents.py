import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert "://" in target or (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_two_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^    \./run (\w+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert commands[:2] == ["mount", "test"]
    usage = subprocess.run([REPOSITORY / "run"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert all(f"\n  {command} " in usage for command in commands)


def test_every_change_is_told_in_one_sentence_first() -> None:
    for change in (REPOSITORY / "changelog").glob("*.md"):
        assert re.match(r"(Added|Changed|Fixed|Removed): \w.*[^.]\n\n\S", change.read_text()), change.name

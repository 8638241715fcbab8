import pytest

from aliasfs.cli import output


def test_a_pipe_gets_tabs_and_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [("1", "x\ty"), ("2", "line\nbreak")])
    output.print_facts({"name": "value"})
    assert capsys.readouterr().out == "1\tx\\ty\n2\tline\\nbreak\nname\tvalue\n"


def test_a_terminal_gets_headings_and_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    output.print_table(("NAME", "URL"), [("A", "[bold]/x[/bold]")])
    output.print_facts({"a": "1", "long": "2"})
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line.split() for line in lines] == [["NAME", "URL"], ["A", "[bold]/x[/bold]"], ["a", "1"], ["long", "2"]]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_999, "1 MB"),
        (20e9, "20 GB"),
        (3e18, "3e+03 PB"),
    ],
)
def test_sizes_have_three_digits_and_a_decimal_unit(count: float, text: str) -> None:
    assert output.human_bytes(count) == text


def test_progress_draws_nothing_into_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PROGRESS_AFTER_S", 0.0)
    with output.progress("working", is_bytes=True) as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_PROGRESS_AFTER_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with output.progress("working") as report:
        report(1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "working" in captured.err

"""Samples become the tables of docs/BENCHMARKS.md; pure text, medians, no judgement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.steps import RANDOM_BYTES, Sample

BEGIN = "<!-- written by ./run bench: begin -->"
END = "<!-- written by ./run bench: end -->"
_MB = 1e6
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """How a step is shown: *cell* turns seconds and the amount that was got into text."""

    name: str
    cell: Callable[[float, int], str]


def _milliseconds(seconds: float, _: int) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _throughput(seconds: float, got: int) -> str:
    return f"{seconds:.2f} s ({got / seconds / _MB:,.0f} MB/s)"


def _per_read(seconds: float, got: int) -> str:
    return f"{seconds * 1e3 * RANDOM_BYTES / got:.1f} ms a read"


def _seconds(seconds: float, _: int) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


STEPS = (
    Step("first byte", _milliseconds),
    Step("sequential cold", _throughput),
    Step("sequential from disk cache", _throughput),
    Step("sequential warm", _throughput),
    Step("small files cold, 16 processes", _seconds),
    Step("small files warm, 1 process", _seconds),
    Step("small files warm, 4 processes", _seconds),
    Step("ls -l cold", _seconds),
    Step("ls -l warm", _seconds),
    Step("random 64 KiB", _per_read),
)


class Results:
    """All samples of one run, by step and system."""

    def __init__(self, samples: Sequence[Sample], systems: Sequence[str]) -> None:
        self._samples = samples
        self.systems = systems

    def of(self, step: str, system: str) -> list[Sample]:
        """Return the good samples of one cell."""
        return [each for each in self._samples if (each.step, each.system) == (step, system) and not each.problem]

    def problems(self) -> list[str]:
        """Return one line for each thing that went wrong, without repetitions."""
        return list(dict.fromkeys(f"{s.system}, {s.step}: {s.problem}" for s in self._samples if s.problem))

    def seconds(self, step: str, system: str) -> float | None:
        """Return the median time of one cell."""
        found = self.of(step, system)
        return median(each.seconds for each in found) if found else None

    def steps(self) -> list[Step]:
        """Return the steps that were run, in their order."""
        return [step for step in STEPS if any(each.step == step.name for each in self._samples)]


def render(results: Results, facts: Sequence[str]) -> str:
    """Return the Markdown of all tables, the *facts* of the run before them."""
    parts = ["\n".join(f"- {fact}" for fact in facts), "### Time", _times(results)]
    parts += ["### Peak memory of the daemon (MiB, VmHWM of all its processes)", _cost(results, _memory)]
    parts += [
        "### Requests and bytes at the endpoint",
        _cost(results, _traffic),
    ]
    parts += ["### Processor seconds of the daemon", _cost(results, _processor)]
    if problems := results.problems():
        parts += ["### What failed", "\n".join(f"- {problem}" for problem in problems)]
    return "\n\n".join(parts) + "\n"


def splice(document: str, section: str) -> str:
    """Return *document* with what lies between its two markers replaced; ValueError when they are not there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _times(results: Results) -> str:
    compared = [(name, f"aliasfs against {name}") for name in ("rclone", "limit") if _both(results, name)]
    rows = []
    for step in results.steps():
        row = [step.name]
        for system in results.systems:
            seconds = results.seconds(step.name, system)
            row.append("–" if seconds is None else step.cell(seconds, results.of(step.name, system)[0].got))
        rows.append(row + [_ratio(results, step.name, name) for name, _ in compared])
    return _table(["step", *results.systems, *(title for _, title in compared)], rows)


def _both(results: Results, other: str) -> bool:
    return other in results.systems and "aliasfs" in results.systems


def _ratio(results: Results, step: str, other: str) -> str:
    ours, theirs = results.seconds(step, "aliasfs"), results.seconds(step, other)
    return "–" if ours is None or theirs is None else f"{theirs / ours:.2f} x as fast"


def _cost(results: Results, cell: Callable[[Sequence[Sample]], str]) -> str:
    systems = [system for system in results.systems if system != "limit"]
    rows = []
    for step in results.steps():
        found = [results.of(step.name, system) for system in systems]
        rows.append([step.name, *(cell(samples) if samples else "–" for samples in found)])
    return _table(["step", *systems], rows)


def _memory(samples: Sequence[Sample]) -> str:
    return f"{max(each.peak_bytes for each in samples) / _MIB:,.0f}"


def _processor(samples: Sequence[Sample]) -> str:
    return f"{median(each.cpu_s for each in samples):.2f}"


def _traffic(samples: Sequence[Sample]) -> str:
    chosen = sorted(samples, key=lambda each: each.fetched_bytes)[len(samples) // 2]
    counted = " + ".join(f"{count} {kind}" for kind, count in chosen.requests.items() if count)
    return f"{counted}: {chosen.fetched_bytes / _MB:,.1f} MB" if counted else "none"

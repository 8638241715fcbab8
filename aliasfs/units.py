"""Values as people write them in a configuration file: sizes, shares of a disk, permission bits, variables.

Pure: each function turns text into a value or raises ValueError with a sentence that says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_OCTAL = re.compile(r"(?:0o)?([0-7]{1,4})")
_DOLLAR = re.compile(r"\$(\$|\{([^}]*)\}?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a disk: a number of bytes, or a percentage of the whole when *percent* is not None."""

    size_bytes: int = 0
    percent: float | None = None

    def of(self, total_bytes: int) -> int:
        """Return the bytes this share comes to on a disk of *total_bytes*."""
        if self.percent is None:
            return self.size_bytes
        return int(total_bytes * self.percent / 100)


def parse_size(value: object) -> int:
    """Return the bytes that *value* stands for: an int, or text such as `20GB` (10^9) or `500 MiB` (2^20)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match:
            unit = match[2].lower().removesuffix("b")
            step = 1024 if unit.endswith("i") else 1000
            power = _POWERS.get(unit.removesuffix("i"))
            if power is not None and unit != "i":
                return int(float(match[1]) * step**power) if "." in match[1] else int(match[1]) * step**power
    raise ValueError("is no size; write a number of bytes, or one with a unit such as 20GB or 500MiB")


def parse_share(value: object) -> Share:
    """Return the share of a disk that *value* stands for: a size as in `parse_size`, or `5%`."""
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value.strip())
        if match and float(match[1]) < 100:
            return Share(percent=float(match[1]))
    try:
        return Share(size_bytes=parse_size(value))
    except ValueError:
        raise ValueError(
            "is no share of a disk; write a percentage below 100% such as 5%, or a size such as 10GB"
        ) from None


def parse_mode(text: str) -> int:
    """Return the permission bits that *text* spells in octal: `0644`, `644` or `0o644`."""
    match = _OCTAL.fullmatch(text.strip())
    if match and int(match[1], 8) <= 0o777:
        return int(match[1], 8)
    raise ValueError("is no permission mode; write octal digits in quotes, as in '0644', or 0o644")


def expand(text: str, environ: Mapping[str, str], home: str) -> str:
    """Return *text* with `${VAR}` replaced from *environ*, `$$` by one dollar, and a leading `~/` by *home*.

    Any other dollar stands for itself. A value that comes out of a variable is not looked at again.
    Raises ValueError naming the variable when it is not set.
    """

    def value_of(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        name = match[2]
        if not match[0].endswith("}") or not _VARIABLE.fullmatch(name):
            raise ValueError(
                "holds a '${' without a plain variable name and '}'; write ${NAME}, or $${ for a literal one"
            )
        if name not in environ:
            raise ValueError(
                f"uses ${{{name}}}, but the environment variable {name} is not set; set it, or write $$ for a dollar"
            )
        return environ[name]

    if text == "~" or text.startswith("~/"):
        return home + _DOLLAR.sub(value_of, text[1:])
    return _DOLLAR.sub(value_of, text)

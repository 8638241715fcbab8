"""The sample data set: pictures of shapes with their labels, and a sound; made by arithmetic, the same everywhere.

Nothing of it is anyone's work, so that it may be used for anything.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
import shutil
import struct
import wave
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SIDE_PX = 64
PICTURES_PER_KIND = 20
SOUND_HZ = 44_100
SOUND_S = 20
MTIME_S = 1_704_067_200
"""2024-01-01 UTC for every file, so that a data set that was made again has the same versions."""

README = """\
A sample data set for aliasfs, made by arithmetic; use it for anything.

images/*.png     60 pictures of a disc, a box or a ring, 64 x 64 pixels
labels.csv       what is on each picture, and where
sound/sweep.wav  20 seconds that rise from 100 Hz to 2 kHz
summary.json     how many of each
checksums.md5    try: md5sum -c checksums.md5
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """One picture: a *kind* of shape, its centre and radius in pixels, its colour as rrggbb."""

    file: str
    kind: str
    x: float
    y: float
    radius: float
    colour: str

    def coverage(self, x: float, y: float) -> float:
        """Return how much of the pixel at (x, y) the shape covers, 0 to 1, with soft edges."""
        dx, dy = abs(x - self.x), abs(y - self.y)
        away = {
            "disc": math.hypot(dx, dy) - self.radius,
            "box": max(dx, dy) - self.radius,
            "ring": abs(math.hypot(dx, dy) - self.radius) - 3,
        }[self.kind]
        return min(1.0, max(0.0, 0.5 - away))


def write_samples(root: Path) -> None:
    """Make the data set in the directory *root* unless it is there; about 2 MB, in a second.

    It appears whole or not at all: an interrupted run leaves `<root>.partial`, which the next one replaces.
    """
    if root.exists():
        return
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shapes = list(_shapes())
    for shape in shapes:
        _write(partial / shape.file, _png(shape))
    _write_labels(partial / "labels.csv", shapes)
    _write_sound(partial / "sound" / "sweep.wav")
    counts = dict(Counter(shape.kind for shape in shapes))
    _write(partial / "summary.json", json.dumps({"pictures": counts, "side_px": SIDE_PX}, indent=2).encode() + b"\n")
    _write(partial / "README.txt", README.encode())
    _write_checksums(partial)
    for path in sorted(partial.rglob("*"), reverse=True):
        os.utime(path, (MTIME_S, MTIME_S))
    partial.rename(root)


def _shapes() -> Iterator[Shape]:
    """Yield what to draw; always the same, as `Random` promises for a given seed."""
    dice = random.Random("aliasfs")
    for kind in ("box", "disc", "ring"):
        for number in range(PICTURES_PER_KIND):
            radius = round(6 + 14 * dice.random(), 1)
            x, y = (round(radius + 4 + (SIDE_PX - 2 * radius - 8) * dice.random(), 1) for _ in range(2))
            colour = "".join(f"{int(64 + 191 * dice.random()):02x}" for _ in range(3))
            yield Shape(f"images/{kind}-{number:02}.png", kind, x, y, radius, colour)


def _png(shape: Shape) -> bytes:
    """Return the picture as an RGB PNG file (W3C PNG, third edition)."""
    colour = bytes.fromhex(shape.colour)
    rows = bytearray()
    for y in range(SIDE_PX):
        rows.append(0)  # filter type: none
        for x in range(SIDE_PX):
            covered = shape.coverage(x, y)
            rows += bytes(round(covered * channel + (1 - covered) * 24) for channel in colour)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", SIDE_PX, SIDE_PX, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_labels(path: Path, shapes: list[Shape]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(field.name for field in fields(Shape))
        table.writerows(astuple(shape) for shape in shapes)


def _write_sound(path: Path) -> None:
    """Write a mono 16-bit sweep from 100 Hz to 2 kHz; the big file of the set (1.8 MB)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rise = (2000 - 100) / SOUND_S / 2
    seconds = (n / SOUND_HZ for n in range(SOUND_HZ * SOUND_S))
    samples = array("h", (int(12_000 * math.sin(2 * math.pi * (100 + rise * s) * s)) for s in seconds))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(samples.itemsize)
        file.setframerate(SOUND_HZ)
        file.writeframes(samples.tobytes())


def _write_checksums(root: Path) -> None:
    """Write `checksums.md5` in the form that `md5sum -c` reads."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
    )
    _write(root / "checksums.md5", "".join(lines).encode())

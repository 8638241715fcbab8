import csv
import hashlib
import struct
import wave
import zlib
from pathlib import Path

import pytest

from aliasfs.demo.samples import MTIME_S, PICTURES_PER_KIND, SIDE_PX, SOUND_HZ, SOUND_S, write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "samples"
    write_samples(root)
    return root


def pixels(picture: bytes) -> list[bytes]:
    """Return the rows of an RGB PNG whose rows have no filter."""
    rows, position = bytearray(), 8
    while position < len(picture):
        length, kind = struct.unpack_from(">I4s", picture, position)
        body = picture[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(picture[position + 8 + length :][:4], "big")
        if kind == b"IDAT":
            rows += zlib.decompress(body)
        position += length + 12
    stride = 1 + 3 * SIDE_PX
    return [bytes(rows[at + 1 : at + stride]) for at in range(0, len(rows), stride)]


def test_labels_tell_what_the_pictures_show(samples: Path) -> None:
    with (samples / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert len(labels) == 3 * PICTURES_PER_KIND
    for label in labels:
        rows = pixels((samples / label["file"]).read_bytes())
        assert len(rows) == SIDE_PX
        x, y = round(float(label["x"])), round(float(label["y"]))
        shown = rows[y][3 * x : 3 * x + 3].hex()
        assert (shown == label["colour"]) == (label["kind"] != "ring"), label


def test_the_sound_is_one(samples: Path) -> None:
    with wave.open(str(samples / "sound" / "sweep.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate()) == (1, SOUND_HZ)
        assert sound.getnframes() == SOUND_HZ * SOUND_S


def test_checksums_cover_every_other_file(samples: Path) -> None:
    sums = dict(reversed(line.split("  ", 1)) for line in (samples / "checksums.md5").read_text().splitlines())
    files = {str(path.relative_to(samples)) for path in samples.rglob("*") if path.is_file()}
    assert sums.keys() == files - {"checksums.md5"}
    for name, digest in sums.items():
        assert hashlib.md5((samples / name).read_bytes()).hexdigest() == digest


def test_made_again_it_has_the_same_versions(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.partial").mkdir()
    (tmp_path / "samples.partial" / "rubbish").touch()
    write_samples(tmp_path / "samples")
    both = [
        {path.relative_to(root): (path.read_bytes(), path.stat().st_mtime) for path in root.rglob("*.*")}
        for root in (samples, tmp_path / "samples")
    ]
    assert both[0] == both[1]
    assert {mtime for _, mtime in both[0].values()} == {MTIME_S}


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    write_samples(tmp_path / "samples")
    assert list((tmp_path / "samples").iterdir()) == []

"""The systems under test: the command line of each mount, with the reason for every option.

All get the same endpoint, a cache directory of their own on the same disk with the same budget, and may
believe names and attributes for 60 s.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mounts import BenchError, Recipe

_CACHE_GB = 8


@dataclass(frozen=True, slots=True)
class Site:
    """Where one session of one system lives: the rig's port, mount point, cache and a place for files."""

    port: int
    point: Path
    cache: Path
    files: Path


def rclone(site: Site) -> Recipe:
    """Build the command of `rclone mount` as its documentation advises for S3.

    Streams 16 by chunks of 4 MiB: the advice of the `--vfs-read-chunk-streams` page for S3. Server
    modification times: else every name in `ls -l` costs a HEAD for its metadata. Fast fingerprints: the
    advice for S3. Attribute and directory times equal to the ttl of aliasfs.
    """
    command = [
        *(program("rclone"), "mount", "bench:bench", str(site.point)),
        *("--config", "/dev/null", "--cache-dir", str(site.cache), "--read-only"),
        *("--vfs-cache-mode", "full", "--vfs-cache-max-size", f"{_CACHE_GB}G"),
        *("--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "4M"),
        *("--use-server-modtime", "--vfs-fast-fingerprint"),
        *("--attr-timeout", "60s", "--dir-cache-time", "60s"),
    ]
    environment = {
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
        "RCLONE_CONFIG_BENCH_ENDPOINT": f"http://127.0.0.1:{site.port}",
        "RCLONE_CONFIG_BENCH_ACCESS_KEY_ID": "x",
        "RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY": "y",
        "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
    }
    return Recipe(command, ["fusermount3", "-u", str(site.point)], environment=environment)


def s3fs(site: Site) -> Recipe:
    """Build the command of s3fs-fuse: 16 parts at once, room for all names, times equal to the others'."""
    secret = site.files / "passwd-s3fs"
    secret.write_text("x:y\n")
    secret.chmod(0o600)
    options = [
        f"url=http://127.0.0.1:{site.port}",
        f"passwd_file={secret}",
        f"use_cache={site.cache}",
        "use_path_request_style,sigv4,endpoint=us-east-1,ro",
        "parallel_count=16,multireq_max=64",
        "max_stat_cache_size=100000,stat_cache_expire=60",
    ]
    command = [program("s3fs"), "bench", str(site.point), "-f", "-o", ",".join(options)]
    return Recipe(command, ["fusermount3", "-u", str(site.point)])


def aliasfs(site: Site) -> Recipe:
    """Write a configuration with one alias and mount it; JSON is YAML."""
    options = {
        "endpoint_url": f"http://127.0.0.1:{site.port}",
        "key": "x",
        "secret": "y",
        "client_kwargs": {"region_name": "us-east-1"},
    }
    config = site.files / "aliasfs.yaml"
    config.write_text(
        json.dumps(
            {
                "aliases": {"BENCH": {"url": "s3://bench", "options": options, "ttl": 60}},
                "cache": {"dir": str(site.cache), "size": f"{_CACHE_GB}GB"},
                "mount": {"point": str(site.point)},
            },
            indent=2,
        )
    )
    config.chmod(0o600)
    binary = program("aliasfs")
    mount = [binary, "mount", str(site.point), "--config", str(config)]
    return Recipe(mount, [binary, "umount", str(site.point), "--config", str(config)], data="BENCH", foreground=False)


RECIPES: dict[str, Callable[[Site], Recipe]] = {"rclone": rclone, "s3fs": s3fs, "aliasfs": aliasfs}

_VERSIONS = {"rclone": ["version"], "s3fs": ["--version"], "aliasfs": ["--version"]}


def program(name: str) -> str:
    """Return the path of *name*, from the virtual environment that runs this, else from PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise BenchError(f"not installed: there is no program '{name}'")
    return found


def version(name: str) -> str:
    """Return the first line with which the system *name* introduces itself."""
    done = subprocess.run([program(name), *_VERSIONS[name]], capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"

"""What `du` says of a directory."""

from __future__ import annotations

import os
from pathlib import Path


def allocated_bytes(directory: Path) -> int:
    """Return what all files and directories at and below *directory* take on disk, in bytes."""
    total = os.lstat(directory).st_blocks * 512
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed while we looked
    return total

"""Files: their hashes, and file systems on which SQLite's locks do not work across machines."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psutil

NETWORK = (
    *("afpfs", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs"),
    *("fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs"),
    *("lustre", "nfs", "ocfs2", "orangefs", "panfs", "smb", "wekafs"),
)
"""Prefixes of the types of file systems that other machines may also have mounted."""
WAY_OUT = (
    "name a PostgreSQL server, `--db postgresql://USER@HOST/NAME`, or give each machine a file on "
    "its own disk, and put them together with `python bench.py db merge A.db B.db`"
)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def network_file_system(path: Path) -> str:
    """Return the type of the network file system that holds or would hold a path; "" if none.

    If two file systems are mounted on one folder, the last one hides the other.
    """
    types = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    absolute = path.resolve()
    kind = next((types[each] for each in (absolute, *absolute.parents) if each in types), "")
    return kind if kind.startswith(NETWORK) else ""


def refusal(file: Path) -> str:
    """Say why a SQLite file cannot be written at its location; return "" if it can.

    `WAY_OUT` says what to do instead.
    """
    kind = network_file_system(file)
    if not kind:
        return ""
    return (
        f"{file} lies on a network file system ({kind}), where the locks of SQLite do not hold "
        "between machines and a database is damaged sooner or later"
    )

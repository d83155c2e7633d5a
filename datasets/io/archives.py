"""Extraction of zip and tar files."""

import errno
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

__all__ = ["extract_tar", "extract_zip"]

_CHUNK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_BROKEN = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def extract_zip(archive: Path, target: Path) -> Path:
    """Extract a zip file into a folder that appears once it is complete.

    A single top-level folder, as in `ModelNet10.zip`, is removed from the paths, and the metadata
    of macOS are omitted. The checksum of every member is verified.

    Args:
        archive: The zip file.
        target: The folder. If it exists, nothing is extracted.

    Returns:
        The target.

    Raises:
        ValueError: If the archive is cut short, corrupt or encrypted, or if a member would land
            outside the folder or is not a plain file.
        OSError: If there is not enough free space on the disk.
    """
    return _extract(archive, target, "zip", _open_zip)


def extract_tar(
    archive: Path, target: Path, *, members: Callable[[PurePosixPath], bool] | None = None
) -> Path:
    """Extract a tar file into a folder that appears once it is complete.

    Paths and members are treated as by `extract_zip`. Only compressed files have a checksum, which
    is verified.

    Args:
        archive: The tar file, plain or compressed with gzip, whatever its name.
        target: The folder. If it exists, nothing is extracted.
        members: Whether a member is extracted, by its path in the archive, which includes a single
            top-level folder; all are by default.

    Returns:
        The target.

    Raises:
        ValueError: If the archive is cut short or corrupt, if none of its files is extracted, or if
            one of them would land outside the folder or is not a plain file.
        OSError: If there is not enough free space on the disk.
    """
    return _extract(archive, target, "tar", partial(_open_tar, chosen=members))


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an archive.

    Attributes:
        name: Its name in the archive.
        kind: Links, devices and all others are `"special"`.
        size: Its extracted size in bytes.
        open: Opens a file for reading.
    """

    name: str
    kind: Literal["file", "folder", "special"]
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def _open_zip(archive: Path) -> Iterator[Iterable[_Member]]:
    with zipfile.ZipFile(archive) as source:
        yield (
            _Member(info.filename, _zip_kind(info), info.file_size, partial(source.open, info))
            for info in source.infolist()
        )


def _zip_kind(info: zipfile.ZipInfo) -> Literal["file", "folder", "special"]:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "special"
    return "folder" if info.is_dir() else "file"


@contextmanager
def _open_tar(
    archive: Path, chosen: Callable[[PurePosixPath], bool] | None
) -> Iterator[Iterable[_Member]]:
    with open(archive, "rb") as file:
        compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    with tarfile.open(archive, "r:gz" if compressed else "r:") as source:
        yield (
            _Member(info.name, _tar_kind(info), info.size, partial(_open_tar_file, source, info))
            for info in _tar_infos(source)
            if chosen is None or chosen(PurePosixPath(info.name))
        )


def _open_tar_file(source: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = source.extractfile(info)
    if file is None:
        raise ValueError(f"member {info.name!r} is no file")
    return file


def _tar_infos(source: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members without keeping them: archives may have millions."""
    while (info := source.next()) is not None:
        source.members.clear()  # type: ignore[attr-defined]
        yield info
    # `next` also ends at a broken header, and does not reach the checksum of a compressed file.
    stream = cast(IO[bytes], source.fileobj)
    stream.seek(source.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError("it is cut short or corrupt: its end mark is missing")
    while stream.read(_CHUNK_BYTES):
        pass


def _tar_kind(info: tarfile.TarInfo) -> Literal["file", "folder", "special"]:
    if info.isfile():
        return "file"
    return "folder" if info.isdir() else "special"


def _extract(
    archive: Path,
    target: Path,
    kind: str,
    open_members: Callable[[Path], AbstractContextManager[Iterable[_Member]]],
) -> Path:
    if target.exists():
        return target
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with open_members(archive) as members:
            files = _files(members)
            _check_room(archive, target.parent, files.values())
            for path, member in files.items():
                _write(member, unfinished / path)
        os.replace(unfinished, target)
    except _BROKEN as error:
        raise ValueError(
            f"{archive}: expected a valid {kind} file ({error}); delete it and download it again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _files(members: Iterable[_Member]) -> dict[PurePosixPath, _Member]:
    """Return the files by their paths in the folder, all of which have to be inside it."""
    files = {}
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts):
            raise ValueError(f"member {member.name!r} would land outside the folder")
        if member.kind == "special":
            raise ValueError(f"member {member.name!r} is a link or a device")
        if member.kind == "file" and not _is_metadata(path):
            files[path] = member
    if not files:
        raise ValueError("it holds no files to extract")
    if len({path.parts[0] for path in files}) == 1 and all(len(p.parts) > 1 for p in files):
        files = {PurePosixPath(*path.parts[1:]): member for path, member in files.items()}
    return files


def _is_metadata(path: PurePosixPath) -> bool:
    """Return whether a path is empty or one of those that macOS adds to archives."""
    added = path.name == ".DS_Store" or path.name.startswith("._")
    return added or "__MACOSX" in path.parts or not path.name


def _check_room(archive: Path, folder: Path, files: Iterable[_Member]) -> None:
    needed = sum(member.size for member in files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"{needed:,} bytes are needed to extract {archive.name}, {free:,} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


def _write(member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)

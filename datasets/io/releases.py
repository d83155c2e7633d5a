"""Official archives of data sets: found in a folder, extracted or not, or downloaded to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccnn_geo.files import locked

from .archives import extract_tar
from .download import download

__all__ = ["Release", "find_release"]


@dataclass(frozen=True)
class Release:
    """An official tar file.

    Attributes:
        archive: Its name.
        urls: Its addresses, in order of preference.
        folders: Names of folders that may hold its content; it is extracted to the first one.
        content: What is read of it, relative to the folder; names of folders end with "/".
        sha256: Its SHA-256 checksum in hexadecimal, if known.
        md5: Its MD5 checksum in hexadecimal, if known.
        unused: Names of files and folders that are not extracted.
    """

    archive: str
    urls: tuple[str, ...]
    folders: tuple[str, ...]
    content: tuple[str, ...]
    sha256: str | None = None
    md5: str | None = None
    unused: tuple[str, ...] = ()

    def missing(self, folder: Path) -> list[str]:
        """Return what a folder lacks of the content."""
        return [
            name
            for name in self.content
            if not ((folder / name).is_dir() if name.endswith("/") else (folder / name).is_file())
        ]


def find_release(
    root: Path, title: str, releases: Sequence[Release], *, fetch: bool = True
) -> tuple[Release, Path]:
    """Find a data set that is published in one or several forms.

    The first of these that exists is used, of several releases in the given order:

    1. the content of a release in `root`, or in one of its folders within `root`;
    2. the archive of a release in `root`, which is extracted there;
    3. the archive of the first release, which is downloaded to `root`.

    Args:
        root: The folder.
        title: Name of the data set, for error messages.
        releases: The forms.
        fetch: If True, the first release is downloaded if nothing is found.

    Returns:
        The release, and the folder that holds its content.

    Raises:
        ValueError: If an archive is broken, or holds something else.
        OSError: If the data set is missing, or a part of it, or if it cannot be downloaded; the
            message describes the manual download.
    """
    for release in releases:
        for folder in (root, *(root / name for name in release.folders)):
            missing = release.missing(folder)
            if not missing:
                return release, folder
            if len(missing) < len(release.content):
                raise FileNotFoundError(
                    f"{folder}: expected all of {title}, got no {', '.join(missing)}; put them "
                    f"there, or remove the others to extract {release.archive} anew"
                )
    there = [release for release in releases if (root / release.archive).is_file()]
    if not fetch and not there:
        forms = [
            f"{', '.join(each.folders)}, {each.archive} (from {each.urls[0]})" for each in releases
        ]
        raise FileNotFoundError(f"Expected {title} in {root}: {', '.join(forms)}, got none of them")
    release = (there or releases)[0]
    return release, _extracted(root, title, release)


def _extracted(root: Path, title: str, release: Release) -> Path:
    """Extract the archive, which is downloaded if it is missing."""
    archive, folder = root / release.archive, root / release.folders[0]
    with locked(root / ".ccnn_geo", setting="root"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # an empty folder would count as extracted
        download(release.urls, archive, sha256=release.sha256, md5=release.md5)
        extract_tar(archive, folder, members=lambda path: not set(path.parts) & set(release.unused))
    if missing := release.missing(folder):
        raise ValueError(
            f"{folder}: expected the content of {title}, got no {', '.join(missing)}; remove the "
            f"folder, and {archive.name} if it is the archive of another data set"
        )
    return folder

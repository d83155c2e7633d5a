"""The official archive of the Long Range Arena."""

from collections.abc import Sequence
from pathlib import Path

from ccnn_geo.files import locked

from ...io.archives import extract_tar

__all__ = ["find_official"]

_ARCHIVE = "lra_release.gz"
_URL = f"https://storage.googleapis.com/long-range-arena/{_ARCHIVE}"
# Where folders of the archive are, if it was extracted by hand.
_INSIDE = ("", "lra_release", "lra_release/lra_release")


def find_official(
    root: Path, title: str, folder: str, content: Sequence[str], *, instead: str = ""
) -> Path:
    """Find a folder of the archive; extract it if only the archive exists.

    Args:
        root: Folder with the content itself, with the folder, with the extracted archive, or with
            the archive `lra_release.gz`, of which only the folder is extracted.
        title: Name of the task, for error messages.
        folder: Path of the folder in the archive.
        content: What has to be in the folder.
        instead: What can be done without the archive, for error messages.

    Raises:
        ValueError: If the archive is broken or does not hold the folder.
        OSError: If there is neither the content nor the archive; the message describes the manual
            download. Or if the archive cannot be extracted.
    """
    # Extracted by this function, one folder of the archive at a time.
    target = root / f"{_ARCHIVE.removesuffix('.gz')}_{folder.replace('/', '_')}"
    places = [root, *(base / name / folder for base in (root, target) for name in _INSIDE)]
    if (found := _first(places, content)) is not None:
        return found
    archive = root / _ARCHIVE
    if not archive.is_file():
        raise FileNotFoundError(
            f"Expected {title} in {root.absolute()}: {', '.join(content)}, a folder {folder} with "
            f"them, or {archive.name}, got none of these. Download {_URL} (8 GB) and put it there"
            f"{instead}"
        )
    parts = Path(folder).parts
    with locked(root / ".ccnn_geo", setting="root"):
        extract_tar(
            archive,
            target,
            members=lambda path: any(
                path.parts[start : start + len(parts)] == parts for start in range(len(path.parts))
            ),
        )
    if (found := _first([target, *places], content)) is None:
        raise ValueError(
            f"{target}: expected {', '.join(content)} of {title}, got none; remove the folder, and "
            f"{archive.name} if it is another archive"
        )
    return found


def _first(places: Sequence[Path], content: Sequence[str]) -> Path | None:
    """Return the first of some folders that has the content, or None."""
    return next((place for place in places if all((place / x).exists() for x in content)), None)

"""ModelNet10 and ModelNet40, as meshes or as resampled clouds."""

from functools import partial
from pathlib import Path
from typing import Literal, Unpack, get_args

from ccnn_geo.files import locked

from ..io.archives import extract_zip
from ..io.download import download
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions
from .folder import class_folders, file_item, list_class_folders

__all__ = ["MODELNET10_CLASSES", "MODELNET40_CLASSES", "ModelNet", "list_modelnet"]

ModelNetName = Literal["10", "40"]

MODELNET10_CLASSES = tuple(
    "bathtub bed chair desk dresser monitor night_stand sofa table toilet".split()
)
MODELNET40_CLASSES = tuple(
    "airplane bathtub bed bench bookshelf bottle bowl car chair cone cup curtain desk door dresser "
    "flower_pot glass_box guitar keyboard lamp laptop mantel monitor night_stand person piano "
    "plant radio range_hood sink sofa stairs stool table tent toilet tv_stand vase wardrobe "
    "xbox".split()
)
_CLASSES: dict[str, tuple[str, ...]] = {"10": MODELNET10_CLASSES, "40": MODELNET40_CLASSES}
# All mirrors have the same file, see the checksums; some are unavailable at times.
_URLS = {
    "10": (
        "https://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
        "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
        "https://3dshapenets.cs.princeton.edu/ModelNet10.zip",
        "https://huggingface.co/datasets/Msun/modelnet10/resolve/main/ModelNet10.zip",
        "http://vision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
    ),
    "40": (
        "https://modelnet.cs.princeton.edu/ModelNet40.zip",
        "http://modelnet.cs.princeton.edu/ModelNet40.zip",
        "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet40.zip",
        "http://vision.princeton.edu/projects/2014/3DShapeNets/ModelNet40.zip",
    ),
}
_SHA256 = {
    "10": "9d8679435fc07d1d26f13009878db164a7aa8ea5e7ea3c8880e42794b7307d51",
    "40": "42dc3e656932e387f554e25a4eb2cc0e1a1bd3ab54606e2a9eae444c60e536ac",
}
_RESAMPLED = "modelnet40_normal_resampled"


class ModelNet(SampledDataset):
    """The ModelNet data set of Wu et al. (2015), https://arxiv.org/abs/1406.5670.

    The first of these sources that exists is used:

    1. split lists and clouds of `modelnet40_normal_resampled`, in `root` or in a folder of this
       name inside it;
    2. meshes `<class>/{train,test}/*.off`, in `root` or in its folder `ModelNet10` or
       `ModelNet40`; some classes may be missing;
    3. the official `ModelNet10.zip` or `ModelNet40.zip` in `root`, which is extracted there;
    4. the same archive from its official hosts, which is downloaded to `root`.

    Labels are indices into the classes of the full data set. The meshes are for academic research
    only.

    Args:
        root: The folder.
        name: `"10"` or `"40"`.
        download: If True, the data set is downloaded if it is missing.
        **options: See `SampledDataset`.

    Raises:
        ValueError: If a file is broken; the message names it.
        OSError: If the data set is missing and cannot be downloaded; the message describes the
            manual download.
    """

    def __init__(
        self,
        root: Path | str,
        name: ModelNetName = "10",
        *,
        download: bool = True,
        **options: Unpack[SamplingOptions],
    ) -> None:
        super().__init__(list_modelnet(Path(root), name, fetch=download), **options)


def list_modelnet(root: Path, name: ModelNetName, *, fetch: bool = True) -> Listing:
    """Find ModelNet, or download it, and list its meshes or clouds."""
    if name not in get_args(ModelNetName):
        raise ValueError(f"Expected `name` to be '10' or '40', got {name!r}")
    for folder in (root, root / _RESAMPLED):
        if (folder / f"modelnet{name}_train.txt").is_file():
            return _list_resampled(folder, name)
    archive = root / f"ModelNet{name}.zip"
    extracted = archive.with_suffix("")
    # Some archivers create a second folder of the archive's name.
    for folder in (extracted / extracted.name, extracted, root):
        if _has_classes(folder, name):
            return _list_meshes(folder, name)
    if not fetch and not archive.is_file():
        raise FileNotFoundError(
            f"Expected ModelNet{name} in {root}: its class folders, {archive.name} "
            f"(from {_URLS[name][0]}) or a folder {_RESAMPLED}, got none of them"
        )
    with locked(root / ".ccnn_geo"):
        if extracted.is_dir() and not any(extracted.iterdir()):
            extracted.rmdir()  # an empty folder would count as extracted
        extract_zip(download(_URLS[name], archive, sha256=_SHA256[name]), extracted)
    return _list_meshes(extracted, name)


def _has_classes(folder: Path, name: ModelNetName) -> bool:
    """Return True if at least one class folder exists."""
    return any((folder / label / "train").is_dir() for label in _CLASSES[name])


def _list_meshes(folder: Path, name: ModelNetName) -> Listing:
    classes = _CLASSES[name]
    folders = [label for label in class_folders(folder) if label in classes]
    foreign = [path.parent.name for path in sorted(folder.glob("*/train"))]
    foreign = [label for label in foreign if label not in classes]
    if foreign:
        raise ValueError(
            f"{folder}: expected classes of ModelNet{name} alone, got {', '.join(foreign)} too; "
            "a folder of other classes is a PointCloudFolder"
        )
    return list_class_folders(folder, classes, {".off"}, key=f"modelnet{name}", folders=folders)


def _list_resampled(folder: Path, name: ModelNetName) -> Listing:
    """List the clouds of the split lists, with names such as `night_stand_0001`."""
    splits: dict[str, list[Item]] = {}
    for split in ("train", "test"):
        path = folder / f"modelnet{name}_{split}.txt"
        make = partial(_resampled_item, folder, _CLASSES[name], path)
        splits[split] = [make(line) for line in path.read_text("utf-8", "surrogateescape").split()]
    key = f"modelnet{name}-resampled"
    return Listing(key, folder, list(_CLASSES[name]), splits["train"], splits["test"])


def _resampled_item(folder: Path, classes: tuple[str, ...], listed_in: Path, cloud: str) -> Item:
    label = cloud.rpartition("_")[0]
    path = folder / label / f"{cloud}.txt"
    if label not in classes or not path.is_file():
        raise ValueError(f"{listed_in}: expected names of clouds such as {path}, which is missing")
    return file_item(folder, path, classes.index(label))

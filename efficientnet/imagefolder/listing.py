"""The images below a folder: their names, the folders that are their classes, and folds.

Two layouts are recognised: a folder for each class, as in torchvision's ImageFolder, either in the data folder itself
or in its `train` and `val`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import heapq
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from efficientnet.common.errors import UserError

# Of the formats of `pictures`. A fixed list, so that a folder has the same images with every version of Pillow.
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".avif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".jp2",
    )
)
ENCODED_SUFFIXES = frozenset(map(os.fsencode, IMAGE_SUFFIXES))
# Added by macOS, Windows and Synology (@eaDir holds thumbnails); in lower case.
IGNORED = frozenset([b"__macosx", b"thumbs.db", b"desktop.ini", b"$recycle.bin", b"@eadir"])
SPLITS = {"train": ("train", "training"), "validation": ("val", "validation", "valid"), "test": ("test", "testing")}
TABLES = ("train.csv", "test.csv")  # of data that is not sorted into folders
LOOKED_AT = 1000  # entries of a folder, in a quick look
HEADER = b"images 1\n"  # first line of the text form, with its version
FOLD_STREAM = 1 << 62  # keeps the random numbers of `deal_folds` apart from those of `training.sampler`


@dataclass(frozen=True, eq=False)
class Names:
    """N relative paths, with "/" between folders.

    Two objects rather than N, so that forked loader processes share the memory: 60 MB for the 1.3 million of ImageNet.

    data: a line for each, in the file system's encoding.  ends: the place of each line break, uint32 or uint64 (N,).
    """

    data: bytes
    ends: np.ndarray

    @classmethod
    def of(cls, data: bytes) -> Names:
        ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
        return cls(data, ends.astype(np.uint32 if len(data) < 2**32 else np.uint64))

    @classmethod
    def joined(cls, lines: Iterable[bytes]) -> Names:
        return cls.of(b"".join([line + b"\n" for line in lines]))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        end = int(self.ends[index])
        return os.fsdecode(self.data[self.data.rfind(b"\n", 0, end) + 1 : end])

    def __iter__(self) -> Iterator[str]:
        return iter(os.fsdecode(self.data).split("\n")[:-1])

    def take(self, indices: Iterable[int]) -> Names:
        """The names at these indices, in this order."""
        lines = self.data.split(b"\n")
        return Names.joined(lines[index] for index in indices)


@dataclass(frozen=True, eq=False)
class Listing:
    """The images below `root`, sorted by the bytes of their names.

    skipped: numbers of other files by suffix.  problems: a line for each reason why something was left out.
    empty_folders: names of folders that hold no image at any depth; a folder in such a folder is not named.
    """

    root: Path
    names: Names
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    empty_folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names."""
        return hashlib.sha256(self.names.data).hexdigest()

    def to_bytes(self) -> bytes:
        """The names as compressed text, a line each; the same bytes for the same names."""
        return gzip.compress(HEADER + self.names.data, compresslevel=1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes, root: Path) -> Listing:
        """Inverse of `to_bytes`; only the names are kept. Raises UserError."""
        try:
            text = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise UserError("the run's list of images is damaged; restore it from a copy, or start a new run") from None
        if not (text.startswith(HEADER) and text.endswith(b"\n")):
            raise UserError(
                "the run's list of images is in an unknown format; resume with the version of this program that wrote "
                "it, or start a new run"
            )
        return cls(root, Names.of(text.removeprefix(HEADER)))


def changes(before: Listing, now: Listing) -> tuple[int, int]:
    """How many names are gone, and how many are new."""
    if before.names.data == now.names.data:
        return 0, 0
    old, new = (set(listing.names.data.split(b"\n")) for listing in (before, now))
    return len(old - new), len(new - old)


def list_images(root: Path) -> Listing:
    """List the images below `root`, by their suffixes.

    Links are followed, but each real folder is listed once: under its own name if it lies below `root`, else under the
    first link to it. Names that begin with ".", and IGNORED, are passed over. Folders that cannot be read, broken
    links, and names with a line break are left out, and `problems` says so.

    Raises UserError if `root` is not a folder that can be read.
    """
    check_readable(root)
    problems: dict[str, list[bytes]] = {}
    images, skipped = [], Counter()
    listed, occupied = set(), {b""}  # folders: all, and those with an image at any depth
    for folder, files in walk(os.fsencode(root), problems):
        found = [folder + name for name in files if is_image(name)]
        images += found
        skipped.update(suffix_of(name) for name in files if not is_image(name))
        listed.add(folder)
        while found and folder not in occupied:
            occupied.add(folder)
            folder = parent(folder)
    empty = sorted(folder for folder in listed - occupied if parent(folder) in occupied)
    lines = [
        f"{root}: ignored {reason}: {len(paths)}, such as {printable(min(paths))}"
        for reason, paths in sorted(problems.items())
    ]
    return Listing(root, Names.joined(sorted(images)), skipped, tuple(lines), tuple(map(printable, empty)))


def check_readable(root: Path) -> None:
    """Raise UserError if `root` is not a folder that can be read."""
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        raise UserError(f"{root}: no such folder; give the folder that holds the images") from None
    except NotADirectoryError:
        raise UserError(f"{root}: is a file; give the folder that holds the images") from None
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror}); check its permissions and its disk") from None


def walk(base: bytes, problems: dict[str, list[bytes]]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield folders below `base`, each with the names of its files.

    Folders are paths that end in "/"; `base` itself is b"".
    problems: receives the paths that are left out, by reason.
    """
    seen = set()
    # (is a link, folder): real folders come first, so that no link takes the place of one.
    waiting = [(False, b"")]
    while waiting:
        _, folder = heapq.heappop(waiting)
        files = []
        try:
            status = os.stat(os.path.join(base, folder))
            if status.st_ino and (status.st_dev, status.st_ino) in seen:  # some file systems have no numbers
                problems.setdefault("links to folders that are listed elsewhere", []).append(folder)
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(base, folder)) as entries:
                for entry in filter(is_visible, entries):
                    name = entry.name
                    is_folder, is_file = kind(entry)
                    if b"\n" in name or b"\r" in name:
                        problems.setdefault("names with a line break", []).append(folder + name)
                    elif is_file:
                        files.append(name)
                    elif is_folder:
                        heapq.heappush(waiting, (entry.is_symlink(), folder + name + b"/"))
                    elif is_image(name):
                        problems.setdefault("broken links and special files", []).append(folder + name)
        except OSError as error:
            problems.setdefault(f"folders that cannot be read ({error.strerror})", []).append(folder)
            continue
        yield folder, files


def kind(entry: os.DirEntry) -> tuple[bool, bool]:
    """Whether it is a folder, and whether it is a file, or links to one."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # such as a link to itself
        return False, False


def is_visible(entry: os.DirEntry[bytes]) -> bool:
    return not entry.name.startswith(b".") and entry.name.lower() not in IGNORED


def is_image(name: bytes) -> bool:
    return name[name.rfind(b".") :].lower() in ENCODED_SUFFIXES


def suffix_of(name: bytes) -> str:
    """The suffix in lower case, or the whole name if it has none."""
    return printable(name[max(0, name.rfind(b".")) :].lower())


def parent(folder: bytes) -> bytes:
    return folder[: folder.rfind(b"/", 0, -1) + 1]


def printable(path: bytes) -> str:
    """A path in one line, without a final "/"."""
    return os.fsdecode(path.removesuffix(b"/")).replace("\n", "?").replace("\r", "?")


def split_folders(root: Path) -> dict[str, str]:
    """The folders in `root` for training, validation and test, by the keys of SPLITS; only those that exist.

    Upper and lower case are alike.
    """
    entries = sorted(entries_in(os.fsencode(root)), key=lambda entry: entry.name)
    found = {os.fsdecode(entry.name).lower(): os.fsdecode(entry.name) for entry in entries if kind(entry)[0]}
    names = {split: next(filter(found.get, aliases), None) for split, aliases in SPLITS.items()}
    return {split: found[name] for split, name in names.items() if name is not None}


def looks_like_image_folder(root: Path) -> bool:
    """Whether `root` holds images, perhaps in class folders or in a training folder. A quick look; raises nothing.

    False for a folder with one of TABLES.
    """
    if any(os.path.exists(root / table) for table in TABLES):
        return False
    train = split_folders(root).get("train")
    places = [root] if train is None else [root / train, root]
    return any(map(has_image_folder, places)) or holds_image(os.fsencode(root))


def has_image_folder(root: Path) -> bool:
    """Whether one of the folders among the first LOOKED_AT entries of `root` holds an image."""
    entries = islice(entries_in(os.fsencode(root)), LOOKED_AT)
    return any(kind(entry)[0] and holds_image(entry.path) for entry in entries)


def holds_image(folder: bytes) -> bool:
    """Whether one of the first LOOKED_AT entries at any depth is an image."""
    return any(kind(entry)[1] and is_image(entry.name) for entry in islice(entries_below(folder), LOOKED_AT))


def entries_below(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    """Yield entries of all depths; without end if a link leads back."""
    folders = [folder]
    for place in folders:
        for entry in entries_in(place):
            yield entry
            if kind(entry)[0]:
                folders.append(entry.path)


def entries_in(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    """Yield the visible entries of a folder; none if it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from filter(is_visible, entries)


def class_folders(listing: Listing) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the folders in the root, which are the classes, and the class of each image, int64 (N,).

    Deeper folders belong to the class that they are in. An image directly in the root has class -1.
    Classes are sorted by name, as in torchvision, but by number if all of them are whole numbers.
    """
    names = [name.partition("/")[0] if "/" in name else "" for name in listing.names]
    found = set(names) - {""}
    are_numbers = all(name.isascii() and name.isdigit() for name in found)
    classes = sorted(found, key=(lambda name: (int(name), name)) if are_numbers else None)
    labels = {"": -1} | {name: label for label, name in enumerate(classes)}
    return tuple(classes), np.fromiter(map(labels.__getitem__, names), np.int64, len(names))


def deal_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each image, int64 (N,) from 0 to `folds` - 1, at random but stratified by label.

    The numbers of images in two folds differ by at most one, in each class and in all. The folds depend only on the
    arguments: Philox's raw numbers are the same on every machine and in every version of NumPy.
    """
    random = np.random.Philox(key=np.array([seed, FOLD_STREAM], dtype=np.uint64)).random_raw(len(labels))
    order = np.lexsort((random, labels))  # by class, and at random within each
    fold_of = np.empty(len(labels), np.int64)
    fold_of[order] = np.arange(len(labels)) % folds
    return fold_of

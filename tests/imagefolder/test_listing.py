"""Listing folders of images: which files count, in which order, under which names, and how they are divided."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from efficientnet.common.errors import UserError
from efficientnet.imagefolder import listing as module
from efficientnet.imagefolder.listing import (
    Listing,
    Names,
    changes,
    class_folders,
    deal_folds,
    list_images,
    looks_like_image_folder,
    split_folders,
)


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def link(path: Path, target: Path | str) -> None:
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("links cannot be made here")


def listing_of(*names: str) -> Listing:
    return Listing(Path("data"), Names.joined(os.fsencode(name) for name in names))


def test_files_with_image_suffixes_are_listed_by_the_bytes_of_their_names(tmp_path):
    names = [
        "Z/1.JPEG",
        "a-b/1.png",
        "a.jpg",
        "a/1.jpg",
        "a/10.jpg",
        "a/2.jpg",
        "a/deep/er/0.WebP",
        "ä/1.jpg",
        "日本/1.gif",
    ]
    write(tmp_path, *names[::-1], "a/notes.txt", "labels.csv", "jpg", "a/b.jpg.part")
    listing = list_images(tmp_path)
    assert list(listing.names) == names == sorted(names, key=os.fsencode)
    assert len(listing) == len(names) and listing.problems == ()
    assert listing.skipped == {".txt": 1, ".csv": 1, "jpg": 1, ".part": 1}
    for index, name in enumerate(names):
        assert listing.names[index] == name


def test_an_empty_folder_has_no_images(tmp_path):
    listing = list_images(tmp_path)
    assert len(listing) == 0 and list(listing.names) == [] and listing.empty_folders == ()


def test_hidden_files_and_those_of_operating_systems_do_not_count(tmp_path):
    write(tmp_path, "a/1.jpg", "a/._1.jpg", ".cache/1.jpg", "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg", "a/Thumbs.db")
    listing = list_images(tmp_path)
    assert list(listing.names) == ["a/1.jpg"] and not listing.skipped and listing.empty_folders == ()


def test_folders_without_images_are_named_once(tmp_path):
    write(tmp_path, "cat/1.jpg", "dog/notes.txt", "dog/more/2.txt", "mouse/deep/1.jpg")
    (tmp_path / "mouse/none").mkdir()
    assert list_images(tmp_path).empty_folders == ("dog", "mouse/none")


def test_links_are_followed_and_circles_end(tmp_path):
    write(tmp_path / "elsewhere", "1.jpg", "deep/2.jpg")
    root = write(tmp_path / "data", "cat/1.jpg")
    link(root / "linked", tmp_path / "elsewhere")
    link(root / "cat/2.jpg", tmp_path / "elsewhere/1.jpg")
    link(root / "cat/back", root)
    listing = list_images(root)
    assert list(listing.names) == ["cat/1.jpg", "cat/2.jpg", "linked/1.jpg", "linked/deep/2.jpg"]
    assert listing.problems == (f"{root}: ignored links to folders that are listed elsewhere: 1, such as cat/back",)


def test_a_link_does_not_take_the_place_of_a_real_folder(tmp_path):
    root = write(tmp_path, "zebra/stripes/1.jpg")
    link(root / "animals", root / "zebra/stripes")
    link(root / "begins", root / "zebra")
    assert list(list_images(root).names) == ["zebra/stripes/1.jpg"]


def test_a_folder_may_be_called_like_an_image(tmp_path):
    write(tmp_path, "cat.jpg/1.jpg", "cat.jpg/2.txt")
    assert list(list_images(tmp_path).names) == ["cat.jpg/1.jpg"]


def test_of_several_links_to_a_folder_the_first_counts(tmp_path):
    write(tmp_path / "elsewhere", "1.jpg")
    root = write(tmp_path / "data", "cat/1.jpg")
    for name in ("c", "a", "b"):
        link(root / name, tmp_path / "elsewhere")
    listing = list_images(root)
    assert list(listing.names) == ["a/1.jpg", "cat/1.jpg"]
    assert "2, such as b" in listing.problems[0]


def test_broken_links_are_a_problem_and_not_an_end(tmp_path):
    write(tmp_path, "cat/1.jpg")
    link(tmp_path / "cat/2.jpg", tmp_path / "missing.jpg")
    link(tmp_path / "cat/itself.jpg", tmp_path / "cat/itself.jpg")
    listing = list_images(tmp_path)
    assert list(listing.names) == ["cat/1.jpg"]
    assert listing.problems == (f"{tmp_path}: ignored broken links and special files: 2, such as cat/2.jpg",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_an_image(tmp_path):
    write(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat/2.jpg")
    assert list(list_images(tmp_path).names) == ["cat/1.jpg"]


def refuse(monkeypatch, folder: Path) -> None:
    """Make a folder unreadable, also for the superuser."""
    real = os.scandir

    def scandir(path):
        if os.fsdecode(path).rstrip("/\\") == str(folder):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_read_is_a_problem_and_not_an_end(tmp_path, monkeypatch):
    write(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/deep/2.jpg")
    refuse(monkeypatch, tmp_path / "cat")
    listing = list_images(tmp_path)
    assert list(listing.names) == ["dog/1.jpg"] and listing.empty_folders == ()
    reason = "folders that cannot be read (Permission denied)"
    assert listing.problems == (f"{tmp_path}: ignored {reason}: 1, such as cat",)


def test_a_root_that_is_missing_a_file_or_unreadable_is_refused_in_one_line(tmp_path, monkeypatch):
    write(tmp_path, "file.jpg", "closed/1.jpg")
    refuse(monkeypatch, tmp_path / "closed")
    for name, reason in (("none", "no such folder"), ("file.jpg", "is a file"), ("closed", "Permission denied")):
        with pytest.raises(UserError) as caught:
            list_images(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ") and reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_that_are_not_utf_8_are_kept(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    try:
        os.mkdir(folder)
        open(os.path.join(folder, b"\xff.jpg"), "wb").close()
    except OSError:
        pytest.skip("the file system allows only UTF-8")
    write(tmp_path, "caf/1.jpg", "café/1.jpg")
    listing = list_images(tmp_path)
    assert listing.names.data == "caf/1.jpg\ncafé/1.jpg\n".encode() + b"caf\xe9/\xff.jpg\n"
    assert (listing.root / listing.names[2]).exists() and class_folders(listing)[0][2] == "caf\udce9"
    again = Listing.from_bytes(listing.to_bytes(), tmp_path)
    assert (again.root / again.names[2]).exists()


def test_names_with_a_line_break_are_left_out(tmp_path):
    try:
        write(tmp_path, "cat/1.jpg", "cat/2\n.jpg", "two\nlines/1.jpg", "cat/\r.jpg")
    except OSError:
        pytest.skip("the file system has no such names")
    listing = list_images(tmp_path)
    assert list(listing.names) == ["cat/1.jpg"]
    assert listing.problems == (f"{tmp_path}: ignored names with a line break: 3, such as cat/?.jpg",)


def test_names_are_taken_in_the_given_order_and_pickled():
    names = listing_of("a/1.jpg", "ä/2.jpg", "c/3.jpg").names
    taken = names.take(np.array([2, 1]))
    assert list(taken) == ["c/3.jpg", "ä/2.jpg"] == [taken[0], taken[1]]
    assert taken[np.int64(-1)] == "ä/2.jpg" and len(names.take([])) == 0
    assert list(pickle.loads(pickle.dumps(names))) == list(names)
    assert names.ends.dtype == np.uint32
    with pytest.raises(IndexError):
        names[3]


def test_the_text_form_is_deterministic_and_keeps_the_names():
    listing = listing_of("a/1.jpg", "ä b/2.JPG", "c\r/3.jpg")
    data = listing.to_bytes()
    again = Listing.from_bytes(data, Path("moved"))
    assert list(again.names) == list(listing.names) and (again.root / again.names[0]) == Path("moved/a/1.jpg")
    assert again.to_bytes() == data and again.digest == listing.digest
    assert data[4:8] == bytes(4)  # no time stamp
    assert len(Listing.from_bytes(listing_of().to_bytes(), Path("."))) == 0
    assert listing_of("a/1.jpg").digest != listing.digest


def test_a_damaged_text_form_is_refused_in_one_line():
    listing = listing_of(*(f"{number % 7}/{number}.jpg" for number in range(50)))
    whole, random = listing.to_bytes(), np.random.default_rng(0)
    damaged = [whole[:length] for length in range(len(whole))]
    for place in [*range(12), *random.integers(0, len(whole), 300)]:
        damaged.append(whole[:place] + bytes([whole[place] ^ (1 << random.integers(8))]) + whole[place + 1 :])
    refused = 0
    for data in [b"", b"a/1.jpg\n", *damaged]:
        try:
            assert Listing.from_bytes(data, Path(".")).names.data == listing.names.data  # gzip's time stamp
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > len(damaged) - 30


def test_a_text_form_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(module, "HEADER", b"images 2\n")
    data = listing_of("a/1.jpg").to_bytes()
    monkeypatch.undo()
    with pytest.raises(UserError, match="unknown format"):
        Listing.from_bytes(data, Path("."))


def test_changes_count_names_gone_and_new():
    before, now = listing_of("a/1.jpg", "a/2.jpg", "b/1.jpg"), listing_of("a/2.jpg", "c/1.jpg", "c/2.jpg", "c/3.jpg")
    assert changes(before, now) == (2, 3) and changes(now, before) == (3, 2)
    assert changes(before, listing_of("a/1.jpg", "a/2.jpg", "b/2.jpg")) == (1, 1)
    assert changes(before, before) == (0, 0) and changes(listing_of(), now) == (0, 4)


def test_split_folders_are_found_by_any_of_their_names(tmp_path):
    write(tmp_path, "Training/a/1.jpg", "VAL/a/1.jpg", "other/1.jpg", "test.csv")
    assert split_folders(tmp_path) == {"train": "Training", "validation": "VAL"}
    write(tmp_path, "train/a/1.jpg", "test/1.jpg")
    assert split_folders(tmp_path) == {"train": "train", "validation": "VAL", "test": "test"}
    assert split_folders(tmp_path / "missing") == {}


def test_a_file_is_no_split_folder(tmp_path):
    write(tmp_path, "val", "train/a/1.jpg")
    assert split_folders(tmp_path) == {"train": "train"}


@pytest.mark.parametrize(
    "names, expected",
    [
        (["train/cat/1.jpg"], True),
        (["Train/cat/deep/1.JPG", "Train/1.txt"], True),
        (["cat/1.jpg", "dog/deep/er/1.png", "1.txt"], True),
        (["cat/1.jpg", "dog/1.txt"], True),  # what is missing is said by the task
        (["train/1.jpg"], True),
        (["cat/1.jpg/1.txt", "dog/1.jpg/1.txt"], False),
        (["1.jpg", "2.jpg"], True),
        ([*(f"{number}/1.jpg" for number in range(300))], True),
        ([*(f"train/{number}/1.jpg" for number in range(300))], True),
        (["a/1.dcm", "b/2.dcm", "train/c/3.dcm"], False),
        (["train/cat/1.jpg", "train.csv"], False),
        (["cat/1.jpg", "dog/1.jpg", "test.csv"], False),
        ([".cat/1.jpg", ".dog/1.jpg"], False),
        ([], False),
    ],
)
def test_image_folders_are_recognised(tmp_path, names, expected):
    assert looks_like_image_folder(write(tmp_path, *names)) is expected


def test_the_quick_look_raises_nothing(tmp_path, monkeypatch):
    assert not looks_like_image_folder(tmp_path / "missing")
    assert not looks_like_image_folder(write(tmp_path, "file", "cat/1.jpg", "dog/1.jpg", "emu/1.jpg") / "file")
    refuse(monkeypatch, tmp_path / "cat")
    assert looks_like_image_folder(tmp_path)
    monkeypatch.undo()
    refuse(monkeypatch, tmp_path)
    assert not looks_like_image_folder(tmp_path)


def test_the_quick_look_ends_in_a_circle_of_links(tmp_path):
    write(tmp_path, "cat/1.txt", "dog/1.txt")
    link(tmp_path / "cat/back", tmp_path)
    assert not looks_like_image_folder(tmp_path)


def test_the_quick_look_is_quick(tmp_path, monkeypatch):
    seen = []
    real = module.kind
    monkeypatch.setattr(module, "kind", lambda entry: seen.append(entry.name) or real(entry))
    write(tmp_path, *(f"train/{number % 10}/{number}.jpg" for number in range(200)))
    assert looks_like_image_folder(tmp_path) and len(seen) < 10
    monkeypatch.setattr(module, "LOOKED_AT", 5)
    seen.clear()
    write(tmp_path, *(f"other/{number % 10}/{number}.txt" for number in range(200)))
    assert not module.has_image_folder(tmp_path / "other") and len(seen) < 100


def test_classes_are_sorted_by_name_and_images_outside_have_none():
    listing = listing_of("0.jpg", "10/a.jpg", "9/a.jpg", "Zebra/deep/a.jpg", "ant/a.jpg", "ant/b.jpg", "ähre/1.jpg")
    classes, labels = class_folders(listing)
    assert classes == ("10", "9", "Zebra", "ant", "ähre") and labels.dtype == np.int64
    assert labels.tolist() == [-1, 0, 1, 2, 3, 3, 4]


def test_numbered_classes_are_sorted_by_number():
    classes, labels = class_folders(listing_of("0/a.jpg", "1/a.jpg", "10/a.jpg", "2/a.jpg", "a.jpg"))
    assert classes == ("0", "1", "2", "10") and labels.tolist() == [0, 1, 3, 2, -1]
    assert class_folders(listing_of("1/a.jpg", "01/a.jpg", "2/a.jpg"))[0] == ("01", "1", "2")
    assert class_folders(listing_of("²/a.jpg", "1/a.jpg"))[0] == ("1", "²")  # a digit, but no number


def test_nothing_has_no_classes():
    classes, labels = class_folders(listing_of())
    assert classes == () and labels.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 3, 5, 8])
def test_folds_have_the_same_numbers_of_images_in_each_class_and_in_all(folds, seed):
    random = np.random.default_rng(seed)
    labels = random.choice(9, 500, p=random.dirichlet(np.ones(9)))
    fold_of = deal_folds(labels, folds, seed)
    assert set(fold_of) == set(range(folds))
    for members in [np.ones(500, bool), *(labels == label for label in np.unique(labels))]:
        counts = np.bincount(fold_of[members], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_folds_are_random_and_depend_on_the_seed_alone():
    labels = np.repeat([0, 1], 500)
    first, other = deal_folds(labels, 5, seed=1), deal_folds(labels, 5, seed=2)
    np.testing.assert_array_equal(first, deal_folds(labels, 5, seed=1))
    assert 0.1 < (first == other).mean() < 0.3
    assert 0.1 < (first[1:] == first[:-1]).mean() < 0.3  # neighbours, such as frames of a film, are not dealt in turn
    assert deal_folds(np.array([0, 0, 0, 0, 0, 1, 1, 1]), 2, seed=0).tolist() == [
        0,
        0,
        0,
        1,
        1,
        0,
        1,
        1,
    ]  # in all versions

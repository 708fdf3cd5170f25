"""The classes of ImageNet against other libraries' lists, and the folders that are named after them."""

from pathlib import Path

import pytest

from efficientnet.imagefolder.imagenet import class_indices, imagenet_classes

IDS, NAMES = (list(column) for column in zip(*imagenet_classes(), strict=True))


def test_there_are_a_thousand_classes_of_different_names():
    assert len(set(IDS)) == len({name.lower() for name in NAMES}) == 1000
    assert sorted(IDS) == IDS  # so that sorted folders have the indices
    assert (IDS[0], NAMES[0], NAMES[134], NAMES[652], NAMES[999]) == (
        *("n01440764", "tench", "crane (bird)", "military uniform", "toilet tissue"),
    )


def test_the_ids_are_those_of_timm():
    data = pytest.importorskip("timm.data")
    assert (Path(data.__file__).parent / "_info" / "imagenet_synsets.txt").read_text().split() == IDS


def test_the_names_are_those_of_torchvision():
    meta = pytest.importorskip("torchvision.models._meta")
    pairs = zip(NAMES, meta._IMAGENET_CATEGORIES, strict=True)
    different = [ours for ours, theirs in pairs if ours.lower() != theirs.lower()]
    assert different == [
        *("crane (bird)", "Cardigan (dog)", "cardigan (garment)", "crane (machine)"),
        *("maillot (leotard)", "maillot (swimsuit)"),
    ]


@pytest.mark.parametrize(
    ("folders", "indices"),
    [
        (IDS, [*range(1000)]),
        (["n01440764", "N02102040"], [0, 217]),
        (["n01440764-tench", "n02012849_crane"], [0, 134]),
        (["Tench", "great_white_shark", "crane (machine)"], [0, 2, 517]),
        (["0", "999", "007"], [0, 999, 7]),
        (["tench", "n01440764", "goldfish"], [0, -1, 1]),  # one way for all
        (["n01440764", "unsorted"], [0, -1]),
        (["n01440764", "n014407640"], [0, -1]),
        (["1000", "n00000000", "cat", "-1", "+5", "1_0", "٣"], [-1] * 7),
        ([], []),
    ],
    ids=str,
)
def test_folders_are_classes_by_id_by_name_or_by_number(folders, indices):
    assert class_indices(folders, -1) == indices

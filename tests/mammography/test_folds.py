"""A table of the size of the competition's, and how patients are split."""

import csv
import random
from dataclasses import replace
from itertools import cycle

import pytest

from efficientnet.mammography.split import assign_folds
from efficientnet.mammography.table import Counts, Row, Table, read_table
from efficientnet.mammography.table_columns import RSNA_TARGETS
from efficientnet.mammography.targets import Target

TRAIN_HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)


def write_simulated_rsna(path):
    """A train.csv of the published sizes: 54,706 images of 11,913 patients at two sites, 23,826 breasts of which
    18,384 have two images and no other more than four; 486 patients with cancer, 6 of them on both sides."""
    image = 0
    views = cycle(("CC", "MLO", "MLO"))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TRAIN_HEADER.split(","))
        for breast in range(23_826):
            patient, side = divmod(breast, 2)
            cancer = int(patient % 24 == 0 and patient // 24 < 486 and (side == 0 or patient // 24 < 6))
            scattered = breast * 7919 % 23_826  # each number once, since 7919 is prime
            for _ in range(2 + (scattered < 5442) + (scattered < 1612)):
                image += 1
                site, case, name = 1 + patient % 7 % 2, 10_000 + 3 * patient, 7919 * image
                row = [site, case, name, "LR"[side], next(views), "61.0", cancer, cancer, 0, "", 0, "", 20 + site]
                writer.writerow([*row, patient % 6 == 1])


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    path = tmp_path_factory.mktemp("rsna") / "train.csv"
    write_simulated_rsna(path)
    return read_table(path, targets=RSNA_TARGETS)


def test_a_table_of_the_size_of_rsna_is_read(rsna):
    assert rsna.counts == Counts(images=54_706, breasts=23_826, patients=11_913)
    assert (rsna.positive_counts.breasts, rsna.positive_counts.patients) == (492, 486)
    assert rsna.labels.shape == (54_706, 4)
    assert sum(len(breast.rows) == 2 for breast in rsna.breasts) == 18_384
    assert rsna.labels[:, 0].sum() == rsna.positive_counts.images
    assert rsna.labels[:, 3].sum() > 7_000
    assert rsna.warnings == ()


def table_of(patients: dict[str, int], cancer: set[str] = frozenset(), sites: dict[str, str] | None = None) -> Table:
    """A table with so many images for each patient."""
    rows = [
        Row(patient, f"{patient}-{i}", "L", None, (sites or {}).get(patient), None, None, (label,), f"{patient}_L")
        for patient, images in patients.items()
        for label in (float(patient in cancer),)
        for i in range(images)
    ]
    return Table(tuple(rows), (Target("cancer"),), "table.csv")


def spread(counts) -> int:
    return max(counts) - min(counts)


@pytest.mark.parametrize("folds", [2, 4, 5])
def test_folds_of_rsna_are_balanced(rsna, folds):
    fold_of = assign_folds(rsna, folds)
    assert tuple(fold_of) == rsna.patients
    assert set(fold_of.values()) == set(range(folds))
    cancer = {breast.patient_id for breast in rsna.breasts if breast.label == 1}
    patients, positive, images, images_at_site_1 = ([0] * folds for _ in range(4))
    for patient, fold in fold_of.items():
        patients[fold] += 1
        positive[fold] += patient in cancer
    for row in rsna.rows:
        images[fold_of[row.patient_id]] += 1
        images_at_site_1[fold_of[row.patient_id]] += row.site_id == "1"
    assert spread(patients) <= 1
    assert spread(positive) <= 1
    # Each of the four blocks in the line (cancer or not, site 1 or 2) contributes at most the difference between its
    # patients with most and with fewest images, which is 4, and one patient of 8 images by which lengths may differ.
    assert spread(images) <= 4 * (4 + 8)
    assert spread(images_at_site_1) <= 2 * (4 + 8)


def test_folds_are_stratified_within_one_for_any_table():
    generator = random.Random(0)
    for seed in range(100):
        patients = {str(patient): generator.randint(1, 14) for patient in range(generator.randint(5, 120))}
        cancer = set(generator.sample(sorted(patients), generator.randint(0, len(patients))))
        sites = {patient: generator.choice("123") for patient in patients}
        folds = generator.randint(2, 5)
        fold_of = assign_folds(table_of(patients, cancer, sites), folds, seed)
        assert set(fold_of) == set(patients)
        for stratum in (set(patients), cancer, set(patients) - cancer):
            counts = [sum(fold_of[patient] == fold for patient in stratum) for fold in range(folds)]
            assert spread(counts) <= 1
        for site in "123":
            counts = [
                sum(fold_of[patient] == fold for patient in cancer if sites[patient] == site) for fold in range(folds)
            ]
            assert spread(counts) <= 1


def test_folds_do_not_depend_on_the_order_of_rows(rsna):
    rows = list(rsna.rows)
    random.Random(1).shuffle(rows)
    assert assign_folds(replace(rsna, rows=tuple(rows)), 4) == assign_folds(rsna, 4)


def test_a_patient_at_two_sites_has_one_place_in_line_whatever_row_comes_first():
    table = table_of({str(patient): 2 for patient in range(40)})
    rows = [replace(row, site_id=str(1 + place % 2)) for place, row in enumerate(table.rows[:40])]
    rows += [replace(row, site_id="2") for row in table.rows[40:]]
    backwards = replace(table, rows=tuple(reversed(rows)))
    assert assign_folds(replace(table, rows=tuple(rows)), 4) == assign_folds(backwards, 4)


def test_folds_depend_on_the_seed(rsna):
    first, second = assign_folds(rsna, 4, seed=0), assign_folds(rsna, 4, seed=1)
    same = sum(first[patient] == second[patient] for patient in first)
    assert 0.15 < same / len(first) < 0.35  # one in four by chance


def test_folds_are_the_ones_they_have_always_been():
    """A change of these is a change of every published split: scores before and after cannot be compared."""
    table = table_of(
        {"10006": 4, "10011": 4, "10025": 4, "10038": 5, "10042": 4, "10048": 4, "10049": 6, "10050": 4},
        cancer={"10025", "10042", "10049"},
        sites={"10006": "2", "10011": "1", "10048": "2"},
    )
    assert assign_folds(table, 3, seed=0) == dict(zip(table.patients, [0, 2, 1, 1, 0, 1, 2, 0], strict=True))
    assert assign_folds(table, 3, seed=1) == dict(zip(table.patients, [1, 2, 1, 1, 0, 0, 2, 0], strict=True))


@pytest.mark.parametrize("folds", [-1, 0, 1, 4])
def test_impossible_numbers_of_folds_are_refused(folds):
    table = table_of({"a": 1, "b": 1, "c": 1})
    with pytest.raises(ValueError, match=r"number of patients \(3\)"):
        assign_folds(table, folds)
    assert sorted(assign_folds(table, 3).values()) == [0, 1, 2]

"""A run keeps its split: what it trains on is never held out later, however its table is edited."""

import numpy as np
import pytest

from efficientnet.mammography.split import Split
from efficientnet.mammography.table import TableError, read_table

FOLDS, FOLD = 3, 0


def table_of(folder, rows):
    """rows: (patient, image, label)."""
    path = folder / "train.csv"
    lines = [f"{patient},{image},L,{label}" for patient, image, label in rows]
    path.write_text("\n".join(["patient_id,image_id,laterality,cancer", *lines]) + "\n")
    return read_table(path)


def checkpoint_of(split):
    return {"split": split.to_dict(), "training_patients": sorted(set(split.fold_of) - split.held_out(FOLD))}


def kept(checkpoint, table):
    return Split.kept(checkpoint, table, FOLDS, FOLD, seed=0)


ROWS = [(f"p{patient}", f"i{patient}{image}", int(patient % 4 == 0)) for patient in range(20) for image in range(2)]


@pytest.mark.parametrize("seed", range(20))
def test_no_patient_changes_sides_whatever_the_table_becomes(tmp_path, seed):
    split = Split.deal(table_of(tmp_path, ROWS), FOLDS, seed=0)
    generator = np.random.default_rng(seed)
    lost, relabelled = ({f"p{number}" for number in generator.choice(20, 3, replace=False)} for _ in range(2))
    rows = [(patient, image, label ^ (patient in relabelled)) for patient, image, label in ROWS if patient not in lost]
    rows += [(f"new{number}", f"n{number}", 1) for number in range(seed % 4)]
    table = table_of(tmp_path, [rows[place] for place in generator.permutation(len(rows))])
    after = kept(checkpoint_of(split), table)
    assert after == split
    said = after.changes(table)
    assert ("new (ignored" in said) == (seed % 4 > 0)
    assert "3 missing" in said
    assert relabelled <= lost or f"{len(relabelled - lost)} with a changed label" in said


def test_an_unchanged_table_is_not_mentioned(tmp_path):
    table = table_of(tmp_path, ROWS)
    split = Split.deal(table, FOLDS, seed=0)
    assert split.changes(table_of(tmp_path, ROWS[::-1])) is None
    assert kept(checkpoint_of(split), table).changes(table) is None


def test_an_image_that_moves_between_training_and_validation_is_refused_by_name(tmp_path):
    split = Split.deal(table_of(tmp_path, ROWS), FOLDS, seed=0)
    held_out = sorted(split.held_out(FOLD))
    trained = sorted(set(split.fold_of) - split.held_out(FOLD))

    def moved(source, destination):
        rows = [(destination if image == f"i{source[1:]}0" else patient, image, 0) for patient, image, _ in ROWS]
        return table_of(tmp_path, rows)

    for source, destination in ((trained[0], held_out[0]), (held_out[0], trained[0])):
        with pytest.raises(
            TableError, match=f"i{source[1:]}0 belonged to patient {source} .*to patient {destination},"
        ):
            kept(checkpoint_of(split), moved(source, destination))
    kept(checkpoint_of(split), moved(trained[0], trained[1]))  # within one side it is a correction
    kept(checkpoint_of(split), moved(trained[0], "renamed"))  # a new patient, who is left out


def test_images_numbered_per_patient_are_not_mistaken_for_one_image(tmp_path):
    rows = [(f"p{patient}", str(image), patient % 2) for patient in range(6) for image in range(2)]
    split = Split.deal(table_of(tmp_path, rows), FOLDS, seed=0)
    kept(checkpoint_of(split), table_of(tmp_path, rows[:-1]))


def test_the_table_of_other_patients_is_refused(tmp_path):
    split = Split.deal(table_of(tmp_path, ROWS), FOLDS, seed=0)
    with pytest.raises(TableError, match="none of the run's patients"):
        kept(checkpoint_of(split), table_of(tmp_path, [("other", "1", 0)]))


def test_a_checkpoint_from_before_splits_were_kept_refuses_what_it_can_tell(tmp_path):
    table = table_of(tmp_path, ROWS)
    split = Split.deal(table, FOLDS, seed=0)
    older = {"training_patients": checkpoint_of(split)["training_patients"]}
    assert kept(older, table) == split
    with pytest.raises(TableError, match=r"would hold out \d+ patients .*that the run has trained on"):
        kept(older, table_of(tmp_path, [(patient, image, 1 - label) for patient, image, label in ROWS]))

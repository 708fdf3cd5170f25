"""`prepare`: every picture is made once, survives kills, and equals the original file for train.py and evaluate.py."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from commands import ROOT, assert_one_line_error, run
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian
from tiny_data import write_tiny_data
from tiny_runs import SMALL
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet.common.files import UNFINISHED, write_bytes
from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.dicom import read_image
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.picture import encode_picture
from efficientnet.mammography.prepare.contact_sheet import BOX, GRAY
from efficientnet.mammography.prepare.pictures import Job
from efficientnet.mammography.prepare.pictures import prepare as prepare_all
from efficientnet.mammography.preprocessing import Preprocessing, preprocess
from efficientnet.mammography.split import assign_folds
from efficientnet.mammography.table import read_table
from efficientnet.training.task import collate

SIZE = (64, 32)
SETTINGS = Preprocessing(SIZE)
PREPARE = "efficientnet.mammography.prepare"
COMMAND = [sys.executable, "-m", PREPARE]


def prepare(data: Path, output: Path, *arguments: object, size=SIZE, code: int = 0):
    process = run(*(PREPARE, "--data", data, "--output", output, "--image-size", *size, "--workers", 1, *arguments))
    assert process.returncode == code, process.stderr + process.stdout
    return process


@pytest.fixture(scope="module")
def cache(phantoms, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cache") / "set"
    prepare(phantoms, output)
    return output


def pictures(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> (time of writing, content) of every prepared picture."""
    found = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def unfinished(output: Path) -> list[Path]:
    return list(output.rglob(f".*{UNFINISHED}"))


def failures(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "failures.csv", newline="") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def some_images(data: Path, count: int) -> list[Path]:
    return sorted(data.glob("train_images/*/*.dcm"))[:count]


def test_the_cache_is_a_data_folder_with_the_same_pictures(phantoms, cache):
    for name in ("train", "test"):
        assert (cache / f"{name}.csv").read_bytes() == (phantoms / f"{name}.csv").read_bytes()
        table = read_table(cache / f"{name}.csv", labels="none")
        folder = f"{name}_images"
        prepared = MammogramDataset(table, find_images(table, cache, folder), SETTINGS)
        original = MammogramDataset(table, find_images(table, phantoms, folder), SETTINGS)
        assert None not in prepared.files and len(prepared) > 0
        for index, row in enumerate(table.rows):
            picture = original.picture(index)
            assert np.abs(prepared.picture(index) - picture).max() <= 0.5 / 255 + 1e-6
            by_hand = preprocess(read_image(original.files[index]), SETTINGS, row.laterality)
            assert np.abs(picture - by_hand).max() <= 0.5 / 255
    assert failures(cache) == {}
    assert sorted(os.listdir(cache)) == [
        *("failures.csv", "prepared.json", "test.csv", "test_images", "train.csv", "train_images")
    ]


def test_what_it_was_made_by_stands_beside_it(cache):
    description = json.loads((cache / "prepared.json").read_text())
    assert description["settings"]["image_size"] == list(SIZE)
    assert (description["key"], description["complete"]) == (SETTINGS.key, True)


def test_the_same_command_again_writes_nothing(phantoms, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert "96 of 96" in prepare(phantoms, cache).stdout
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_killed_run_is_gone_on_with_and_half_written_files_are_not_trusted(phantoms, cache, tmp_path):
    output = tmp_path / "cache"
    command = [*COMMAND, "--data", phantoms, "--output", output, "--image-size", *SIZE, "--workers", 1]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(list(output.rglob("*.png"))) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = pictures(output)
    assert len(before) < 96, "it was too fast to be killed"
    name = next(iter(before))
    (output / name).with_name(f".half.png.0123{UNFINISHED}").write_bytes(b"half")
    for path in unfinished(output):
        os.utime(path, (time.time() - 4000,) * 2)
    arguments = ("--data", output, "--dry-run")
    assert_one_line_error(run("train.py", *arguments), 1, str(output), "is incomplete", "again")
    (output / name).write_bytes(before.pop(name)[1][:-9])
    prepare(phantoms, output)
    after = pictures(output)
    assert {name: after[name] for name in before} == before
    assert {name: content for name, (_, content) in after.items()} == {n: c for n, (_, c) in pictures(cache).items()}
    assert not unfinished(output)


def test_two_at_once_make_one_sound_cache(phantoms, cache, tmp_path):
    output = tmp_path / "cache"
    command = [*COMMAND, "--data", phantoms, "--output", output, "--image-size", *SIZE, "--workers", 1]
    both = [subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert {name: content for name, (_, content) in pictures(output).items()} == {
        name: content for name, (_, content) in pictures(cache).items()
    }
    assert not unfinished(output)


def test_ctrl_c_says_how_to_go_on(phantoms, tmp_path):
    output = tmp_path / "cache"  # of pictures so large that they take long enough
    command = [*COMMAND, "--data", phantoms, "--output", output, "--image-size", 2048, 2048, "--workers", 1]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where pytest runs in the background
    )
    while not list(output.rglob("*.png")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "again to continue" in error and len(error.splitlines()) == 1
    assert not unfinished(output)


def test_a_source_that_changed_is_prepared_again(raw, tmp_path):
    output = tmp_path / "cache"
    prepare(raw, output)
    before = pictures(output)
    first, second, third = some_images(raw, 3)
    shutil.copyfile(second, first)
    third.write_bytes(b"no longer an image")
    prepare(raw, output, code=1)
    after = pictures(output)
    changed = {name for name in before if after.get(name) != before[name]}
    assert {Path(name).stem for name in changed} == {first.stem, third.stem}
    assert f"train_images/{third.parent.name}/{third.stem}.png" not in after  # not what it was before it broke


@pytest.mark.parametrize("days", [-300, 1])
def test_a_source_of_another_date_is_another_source(tmp_path, days):
    """Also an older date, which rsync, tar and unzip keep, and one to come, from the clock of another machine."""
    data, output = write_tiny_data(tmp_path / "data", 3), tmp_path / "cache"
    prepare(data, output)
    other, replaced = sorted(sorted(data.rglob("*.png"))[:2], key=lambda path: path.stat().st_size)
    made = [output / path.relative_to(data) for path in (other, replaced)]
    assert (np.asarray(Image.open(made[0])) != np.asarray(Image.open(made[1]))).any()
    replaced.write_bytes(other.read_bytes().ljust(replaced.stat().st_size, b"\0"))
    os.utime(replaced, (time.time() + 86400 * days,) * 2)
    prepare(data, output)
    np.testing.assert_array_equal(*(np.asarray(Image.open(path)) for path in made))
    after = pictures(output)
    prepare(data, output)
    assert pictures(output) == after


def test_folders_from_before_dates_were_stored_are_gone_on_with(tmp_path, monkeypatch):
    data, output = write_tiny_data(tmp_path / "data", 3), tmp_path / "cache"
    paths = sorted(data.rglob("*.png"))
    targets = [output / path.relative_to(data) for path in paths]
    jobs = [Job(path, target, "L") for path, target in zip(paths, targets, strict=True)]
    for path, target in zip(paths, targets, strict=True):
        origin = f"{path.name}, {path.stat().st_size} bytes, L"
        write_bytes(target, encode_picture(np.eye(64, 32), SETTINGS, origin))
    assert all(job.is_done(SETTINGS) for job in jobs)
    os.utime(paths[0], (time.time() + 60,) * 2)
    assert [job.is_done(SETTINGS) for job in jobs] == [False] + [True] * 11


def test_labels_that_changed_are_taken_over_without_preparing_again(raw, tmp_path):
    output = tmp_path / "cache"
    prepare(raw, output)
    before = pictures(output)
    (raw / "train.csv").write_text((raw / "train.csv").read_text().replace(",1,", ",0,"))
    prepare(raw, output)
    assert (output / "train.csv").read_text() == (raw / "train.csv").read_text()
    assert pictures(output) == before


def test_a_link_to_nothing_is_a_failure_and_not_the_end(raw, tmp_path):
    path = some_images(raw, 1)[0]
    path.unlink()
    path.symlink_to(raw / "nothing")
    prepare(raw, tmp_path / "cache", code=1)
    assert "No such file" in failures(tmp_path / "cache")[path.name]["reason"]


@pytest.mark.parametrize("patients", [75, pytest.param(750, marks=pytest.mark.nightly)])
def test_thousands_of_tiny_files_are_prepared_split_and_loaded_each_once(tmp_path, patients):
    count, output = 4 * patients, tmp_path / "cache"
    data = write_tiny_data(tmp_path / "data", patients, size=32)
    assert f"{count:,} of {count:,}" in prepare(data, output, size=(32, 32)).stdout
    table = read_table(output / "train.csv", ("cancer",))
    files = find_images(table, output)
    assert len(set(files)) == len(pictures(output)) == count and None not in files
    folds = assign_folds(table, 5, 0)
    assert len(folds) == patients and set(folds.values()) == set(range(5))
    loader = DataLoader(
        MammogramDataset(table, files, Preprocessing((32, 32))), 50, shuffle=True, num_workers=2, collate_fn=collate
    )
    seen = [index for batch in loader for index in batch.indices]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--image-size", 64, 64), ["image_size [64, 32] instead of [64, 64]"]),
        (("--no-crop", "--side", "as-is"), ["crop True instead of False", "side left instead of as-is"]),
    ],
)
def test_a_cache_by_other_parameters_is_refused_by_name(phantoms, cache, arguments, words):
    before = pictures(cache)
    process = run(PREPARE, "--data", phantoms, "--output", cache, "--image-size", *SIZE, *arguments)
    assert_one_line_error(process, 1, str(cache), *words)
    process = run("train.py", "--data", cache, *arguments, "--dry-run")
    assert_one_line_error(process, 1, str(cache), *words)
    assert pictures(cache) == before


def test_what_is_no_cache_is_not_written_to(phantoms, cache, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert_one_line_error(prepare(phantoms, tmp_path, code=1), 1, str(tmp_path), "not empty")
    assert_one_line_error(prepare(phantoms, phantoms, code=1), 1, str(phantoms), "not empty")
    assert_one_line_error(prepare(cache, tmp_path / "new", code=1), 1, str(cache), "prepared folder itself")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_damaged_description_is_refused(phantoms, tmp_path):
    (tmp_path / "prepared.json").write_text('{"version": 1}')
    assert_one_line_error(prepare(phantoms, tmp_path, code=1), 1, "prepared.json", "damaged")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--data", "nowhere", "--output", "x", "--image-size", 64), ["nowhere", "--data"]),
        (("--data", "tests", "--output", "x", "--image-size", 64), ["tests", "train.csv", "test.csv"]),
    ],
)
def test_a_folder_that_is_no_data_folder_is_one_line(arguments, words):
    assert_one_line_error(run(PREPARE, *arguments), 1, *words)


@pytest.mark.parametrize(
    "arguments",
    [(), ("--output", "x"), ("--image-size", 64), ("--output", "x", "--image-size", 1, 2, 3), ("--workers", 0)],
)
def test_usage_errors_are_one_line(phantoms, arguments):
    process = run(PREPARE, "--data", phantoms, *arguments)
    assert_one_line_error(process, 2, "--help")


def test_a_run_on_the_cache_evaluates_alike_on_the_original_files(phantoms, cache, tmp_path):
    process = run(
        *("train.py", *SMALL, "--data", cache, "--batch-size", 4, "--epochs", 1, "--folds", 2),
        *("--output", tmp_path / "run", "--strict", "--positive-share", 0.4),
    )
    assert process.returncode == 0, process.stderr
    assert f"{SIZE[0]}x{SIZE[1]} pixels" in process.stdout  # the cache's, without being told
    scores = {}
    for name, data in (("cache", cache), ("original", phantoms)):
        output = tmp_path / name
        process = run("evaluate.py", "--checkpoint", tmp_path / "run" / "best.pt", "--data", data, "--output", output)
        assert process.returncode == 0, process.stderr
        with open(output / "images.csv", newline="") as file:
            scores[name] = {row["image_id"]: float(row["cancer_probability"]) for row in csv.DictReader(file)}
    # A network of ten updates hangs on every grey level; that the pictures are the same, another test says.
    assert np.corrcoef(list(scores["cache"].values()), list(scores["original"].values()))[0, 1] > 0.9

    other = tmp_path / "other"
    prepare(phantoms, other, size=(64, 64))
    process = run("evaluate.py", "--checkpoint", tmp_path / "run" / "best.pt", "--data", other)
    assert_one_line_error(process, 1, str(other), "image_size [64, 64] instead of [64, 32]")


def test_what_cannot_be_read_is_listed_and_the_others_go_on(raw, tmp_path):
    output = tmp_path / "cache"
    text, cut = some_images(raw, 2)
    kept = {path: path.read_bytes() for path in (text, cut)}
    text.write_bytes(b"patient_id,cancer\n" * 100)
    cut.write_bytes(kept[cut][:-1000])
    process = prepare(raw, output, code=1)
    assert "94 of 96" in process.stdout and "2 failed" in process.stdout and "failures.csv" in process.stdout
    listed = failures(output)
    assert set(listed) == {text.name, cut.name}
    assert "not a DICOM file" in listed[text.name]["reason"] and listed[text.name]["transfer_syntax"] == ""
    assert listed[cut.name]["transfer_syntax"] == "1.2.840.10008.1.2.1"
    assert not any(str(raw) in row["reason"] for row in listed.values())
    process = run("train.py", "--data", output, "--dry-run")
    assert "2 rows of the table" in process.stdout, process.stderr

    before = pictures(output)
    for path, content in kept.items():
        path.write_bytes(content)
    assert "96 of 96" in prepare(raw, output).stdout
    assert failures(output) == {}
    after = pictures(output)
    assert len(after) == 96 and {name: after[name] for name in before} == before


def test_where_nothing_could_be_prepared_nothing_is_next(tmp_path):
    data = write_tiny_data(tmp_path / "data", 1)
    for path in data.rglob("*.png"):
        path.write_bytes(b"broken")
    said = prepare(data, tmp_path / "cache", code=1).stdout
    assert "0 of 4" in said and "next:" not in said


def test_a_hang_costs_one_file(raw, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # whoever opens it waits for a writer
    sources = [*some_images(raw, 4), pipe]
    jobs = [Job(path, tmp_path / "cache" / f"{path.stem}.png", "L") for path in sources]
    limits = {"workers": 2, "seconds": 3, "memory": 4}
    failed = list(prepare_all(jobs, tqdm(disable=True), SETTINGS, limits))
    assert failed == [(jobs[-1], "took longer than 3 seconds")]
    assert sorted(pictures(tmp_path / "cache")) == sorted(f"{path.stem}.png" for path in sources[:-1])


def test_what_is_no_file_is_passed_over(raw, tmp_path):
    image = some_images(raw, 1)[0]
    image.unlink()
    os.mkfifo(image)
    assert "95 of 95" in prepare(raw, tmp_path / "cache").stdout
    assert run(PREPARE, "--data", raw, "--benchmark", "--image-size", 64).returncode == 0
    assert run(PREPARE, "--data", raw, "--check").returncode == 1  # a row is without a file


def test_a_benchmark_names_what_it_could_not_measure(raw):
    for path in raw.glob("*_images/*/*.dcm"):
        path.write_bytes(path.read_bytes()[:-1000])
    process = run(PREPARE, "--data", raw, "--benchmark", "--image-size", 64)
    assert process.returncode == 0 and "damaged" in process.stdout.splitlines()[-1]


def test_a_name_in_any_script_is_known_again(raw, tmp_path):
    table, image = raw / "train.csv", some_images(raw, 1)[0]
    name = "\u4e73\u817a-Br\u00fcste-" + "\U0001fa7b" * 50
    image.rename(image.with_name(f"{name}.dcm"))
    table.write_text(table.read_text().replace(f",{image.stem},", f",{name},"), encoding="utf-8")
    prepare(raw, tmp_path / "cache")
    before = pictures(tmp_path / "cache")
    assert any(Path(path).stem == name for path in before)
    prepare(raw, tmp_path / "cache")
    assert pictures(tmp_path / "cache") == before


def test_bombs_cost_one_file_each(raw, tmp_path):
    claims, inflates, crowd = some_images(raw, 3)
    dataset = pydicom.dcmread(claims)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(claims)
    dataset = pydicom.dcmread(inflates)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new("PixelData", "OW", bytes(2**28))  # a quarter of a megabyte in the file
    dataset.save_as(inflates)
    assert inflates.stat().st_size < 2**20
    Image.new("1", (13000, 13000)).save(crowd.with_suffix(".png"))
    crowd.unlink()
    process = prepare(raw, tmp_path / "cache", "--memory", 0.2, code=1)
    assert "93 of 96" in process.stdout and process.stderr == ""
    reasons = {path: row["reason"] for path, row in failures(tmp_path / "cache").items()}
    assert "4,294,836,225 pixels" in reasons[claims.name]
    assert "memory" in reasons[inflates.name]
    assert "memory" in reasons[crowd.with_suffix(".png").name]


def test_a_folder_with_a_test_set_only_is_prepared_for_evaluation(tmp_path):
    data, output = write_tiny_data(tmp_path / "data", 2, folder="test", labels=False), tmp_path / "cache"
    process = prepare(data, output)
    assert "8 of 8" in process.stdout
    assert f"next: python evaluate.py --checkpoint RUN/best.pt --data {output}" in process.stdout
    assert run(PREPARE, "--data", data / "test.csv", "--check", "--columns", "cancer=malign").returncode == 0


def test_a_preview_shows_images_with_their_crop_and_those_that_cannot_be_read(raw, tmp_path):
    for path in raw.glob("train_images/*/*.dcm"):
        if path.stem[-1] in "01234":
            path.write_bytes(b"broken")
    arguments = (PREPARE, "--data", raw, "--image-size", 64, 32, "--preview-images", 7)
    pages = []
    for name in ("a.png", "b.png"):
        process = run(*arguments, "--preview", tmp_path / name)
        assert process.returncode == 0, process.stderr
        assert "7 of 96 images" in process.stdout
        pages.append(np.asarray(Image.open(tmp_path / name)))
    np.testing.assert_array_equal(*pages)  # the same seed shows the same images
    assert (pages[0] == BOX).all(axis=2).any()
    assert (pages[0][..., 0] > 2.0 * pages[0][..., 1]).any()  # the red of TROUBLE, and of nothing else
    for place, words in ((tmp_path / "c.txt", "ends in .png"), (raw / "c.png", "inside --data")):
        assert_one_line_error(run(*arguments, "--preview", place), 2, words)
        assert not place.exists()
    process = run(*arguments, "--preview", tmp_path / "c.png", "--seed", 1)
    assert not np.array_equal(pages[0], np.asarray(Image.open(tmp_path / "c.png")))


def test_an_image_that_kills_its_decoder_costs_a_preview_one_tile(raw, tmp_path):
    for path in raw.glob("*_images/*/*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.add_new("PixelData", "OW", bytes(2**28))
        break
    dataset.save_as(path)
    process = run(
        *(PREPARE, "--data", raw, "--image-size", 64, 32, "--preview-images", 96),
        *("--preview", tmp_path / "a.png", "--memory", 0.2),
    )
    assert process.returncode == 0, process.stderr
    page = np.asarray(Image.open(tmp_path / "a.png"))
    assert (page == GRAY).all(axis=2).sum() > 10_000

"""The report page, the breasts on it, and heatmaps."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from dicom_files import make
from drawn_breasts import draw
from PIL import Image

from efficientnet.create import create_model
from efficientnet.inference.activation import class_activation
from efficientnet.mammography.calibration import Calibration
from efficientnet.mammography.crops import centre
from efficientnet.mammography.dataset import to_tensor
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.figures import Line, Section, figures
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.page import breasts
from efficientnet.mammography.page.assembly import Reader, read_history, report_data
from efficientnet.mammography.page.breasts import breasts_that_matter, case_of, read_shown
from efficientnet.mammography.page.content import (
    FALSE_POSITIVES,
    KINDS,
    MISSED,
    TRUE_POSITIVES,
    Case,
    Measure,
    ReportData,
    View,
    headline,
)
from efficientnet.mammography.page.document import PICTURE, both, document, probability_text, report_files
from efficientnet.mammography.page.heatmap import as_levels, heat_colors, heatmap_png
from efficientnet.mammography.page.plots import Plot, by_threshold, plots, wilson
from efficientnet.mammography.page.single import score_image
from efficientnet.mammography.picture import encode_picture, read_picture
from efficientnet.mammography.preprocessing import Preprocessing, breast_box
from efficientnet.mammography.scoring import score_breasts
from efficientnet.mammography.table import read_table
from efficientnet.mammography.targets import Target
from efficientnet.mammography.trained import Trained
from efficientnet.metrics import average_precision

HOSTILE = """<script>alert("1")</script>'&\N{BLACK HEART SUIT}"""
CPU = torch.device("cpu")
SETTINGS = Preprocessing((64, 48))
LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
PROBABILITIES = np.array([0.9, 0.7, 0.1, 0.8, 0.3, 0.2, 0.2, 0.1])


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page; checks that tags are closed in order."""

    EMPTY = ("meta", "img", "source", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert self.open == ["html", "body"] or not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag == "html" and self.open[-1] == "body":  # </body> may be left out
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture_of(seed: int, size=(64, 48)) -> np.ndarray:
    return np.random.default_rng(seed).random(size).astype(np.float32)


def view(name="image", seed=0, **changes) -> View:
    values = {
        "picture": picture_of(seed),
        "heat": picture_of(seed + 1),
        "whole": as_levels(picture_of(seed + 2, (90, 70))),
        "box": (0.1, 0.9, 0.0, 0.5),
    }
    return View(name, **(values | changes))


def data(**changes) -> ReportData:
    cases = {
        kind: [Case(f"{number}_{kind}", 1, 0.25, [view(seed=number), view("other")])]
        for number, kind in enumerate(KINDS)
    }
    history = [{"epoch": epoch, "train_loss": 1 / epoch, "auc": 0.5, "learning_rate": 0.1} for epoch in (1, 2)]
    values = {
        "title": "a title",
        "threshold": 0.5,
        "calibrated": PROBABILITIES**2,
        "headline": [Measure("AUC", ".7", ".6 to .8", "ranking")],
        "tables": [Section("subgroups", ("breasts",), [Line("site 1", ("12",))])],
        "histories": [history],
        "cases": cases,
        "remarks": ["a remark"],
        "limits": ["a limit"],
    }
    return ReportData(labels=LABELS, probabilities=PROBABILITIES, **(values | changes))


def page_of(report: ReportData, drawn: Sequence[Plot] = ()) -> Page:
    return Page(document(report, drawn, ()))


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    image.load()
    return np.asarray(image)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return report_files(data())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("b0", num_classes=1, in_channels=1).eval()


def test_the_page_needs_no_other_file_and_no_network(files):
    text = files["report.html"].decode()
    assert "http:" not in text and "https:" not in text and "url(" not in text
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    sources = [image["src"] for image in page.of("img")] + [each["srcset"] for each in page.of("source")]
    assert sources
    for source in sources:
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        assert pixels(base64.b64decode(content, validate=True)).size
    assert all(image["alt"] for image in page.of("img"))
    (policy,) = (meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_everything_given_is_on_the_page(files):
    text = Page(files["report.html"].decode()).text
    for expected in (
        *("a title", "8 breasts, 3 with cancer", "0.5", "a remark", "a limit", "Not a medical device"),
        *("AUC", ".7", ".6 to .8", "ranking", "subgroups", "site 1", "12", "0.2500"),
        *(f"{number}_{kind}" for number, kind in enumerate(KINDS)),
        *(kind.capitalize() for kind in KINDS),
    ):
        assert expected in text


def test_every_plot_is_a_file_for_light_and_for_dark_pages(files):
    names = ["roc", "precision-recall", "thresholds", "calibration", "training-loss", "training-scores"]
    for name in names:
        light, dark = pixels(files[f"{name}.png"])[..., :3], pixels(files[f"{name}-dark.png"])[..., :3]
        assert light.shape == dark.shape
        assert np.median(light) > 200 and np.median(dark) < 60
        for shown in (light, dark):  # lines and letters stand out
            assert np.ptp(shown.astype(int).sum(-1)) > 400
    assert sum(name.endswith(".png") for name in files) == 2 * (len(names) + 1) + 6
    assert {pixels(content).ndim for name, content in files.items() if "image" in name} == {3}


def test_the_same_data_give_the_same_bytes(files):
    assert report_files(data()) == files


def test_texts_are_escaped():
    case = Case(HOSTILE, 0, 0.5, [view(HOSTILE, note=HOSTILE), View(HOSTILE, note="cannot be read")])
    hostile = data(
        title=HOSTILE,
        target=HOSTILE,
        headline=[Measure(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        tables=[Section(HOSTILE, (HOSTILE,), [Line(HOSTILE, (HOSTILE,))])],
        cases={kind: [case] for kind in KINDS},
        remarks=[HOSTILE],
        limits=[HOSTILE],
    )
    plain = page_of(data(), [Plot("a", "b", "c", b"", b"")])
    page = page_of(hostile, [Plot(HOSTILE, HOSTILE, HOSTILE, b"", b"")])
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert {name for _, attributes in page.tags for name in attributes} == {
        name for _, attributes in plain.tags for name in attributes
    }
    assert page.text.count(HOSTILE) > 20


def test_a_name_that_is_not_unicode_does_not_stop_the_report():
    odd = ReportData("a\udcff", np.zeros(0), np.zeros(0))
    assert "a\\udcff" in report_files(odd)["report.html"].decode()


@pytest.mark.parametrize("cases", [{}, {kind: [] for kind in KINDS}], ids=["no kinds", "empty kinds"])
def test_without_breasts_the_page_says_so(cases):
    page = page_of(data(cases=cases))
    assert not [image for image in page.of("img") if image["alt"].startswith("crop")]
    assert ("No negative breast is called." in page.text) == bool(cases)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_curves_but_a_page(label):
    one = replace(data(), labels=np.full(8, label), threshold=None)
    drawn = {plot.name: plot.light is not None for plot in plots(one)}
    assert drawn == {"roc": False, "precision-recall": False, "thresholds": False, "calibration": True}
    assert page_of(one, plots(one)).text.count("needs positive and negative breasts") == 3


def test_the_least_data_make_a_page():
    files = report_files(ReportData("t", np.zeros(0), np.zeros(0)))
    assert list(files) == ["report.html"]
    page = Page(files["report.html"].decode())
    assert "0 breasts" in page.text and not page.of("img")


def test_labels_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        plots(replace(data(), labels=np.full(8, np.nan)))


@pytest.mark.parametrize("size", [(2000, 1000), (64, 640), (1, 1)])
def test_pictures_of_any_size_are_shown_no_larger_than_needed(size):
    shown = view(picture=np.full(size, 0.5, np.float32), heat=np.ones(size, np.float32), whole=None, box=None)
    page = page_of(data(cases={MISSED: [Case("a", 1, 0.1, [shown])]}))
    (crop,) = (image for image in page.of("img") if image["alt"].startswith("crop"))
    height, width = pixels(base64.b64decode(crop["src"].partition(",")[2])).shape
    assert height <= PICTURE[0] and width <= PICTURE[1]
    assert abs(height - width * size[0] / size[1]) <= max(1, size[0] / size[1])


def test_the_crop_is_outlined_where_it_is():
    picture, whole = np.zeros((200, 100), np.float32), np.zeros((200, 100), np.uint8)
    dark = view(whole=whole, box=(0.25, 0.75, 0.0, 0.5), picture=picture)
    shown = np.asarray(both(dark))
    rows, columns = np.nonzero(shown[:, :100, 0] > 200)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 149, 0, 49)
    page = page_of(data(cases={MISSED: [Case("a", 1, 0.1, [dark])]}))
    (box,) = (each["style"] for each in page.of("div") if each.get("class") == "box")
    assert box == "top:25.00%;left:0.00%;height:50.00%;width:50.00%"


def test_the_overlay_is_where_the_heat_is():
    picture, heat = np.full((64, 48), 0.5, np.float32), np.zeros((64, 48), np.float32)
    heat[10:30, 8:20] = 1
    shown = pixels(heatmap_png(picture, heat)).astype(int)
    colored = np.ptp(shown, axis=-1) > 20
    np.testing.assert_array_equal(colored, heat == 1)
    assert (shown[heat == 0] == 128).all()


def test_a_heatmap_takes_activation_of_any_size():
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    shown = pixels(heatmap_png(np.zeros((64, 48), np.float32), heat)).astype(int)
    assert shown.shape == (64, 48, 3)
    strength = shown.sum(-1)
    assert strength[0, -1] == strength.max() > 100 and not strength[-1].any()


def test_more_activation_is_brighter_and_covers_more():
    colors = heat_colors(np.linspace(0, 1, 101)[None])[0].astype(float)
    lightness = colors[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all() and (np.diff(colors[:, 3]) > 0).all()
    assert colors[0, 3] == 0 and colors[-1, 3] < 255


def test_activation_that_is_not_finite_is_not_drawn():
    assert heat_colors(np.array([[np.nan]]))[0, 0, 3] == 0


def test_breasts_are_chosen_by_label_and_threshold_the_most_extreme_first():
    found = breasts_that_matter(LABELS, PROBABILITIES, 0.2)
    assert found == {TRUE_POSITIVES: [0, 1], FALSE_POSITIVES: [3, 4, 5, 6], MISSED: [2]}
    assert breasts_that_matter(LABELS, PROBABILITIES, 0.2, count=1)[FALSE_POSITIVES] == [3]
    missed = breasts_that_matter(LABELS, PROBABILITIES, 2.0)
    assert missed == {TRUE_POSITIVES: [], FALSE_POSITIVES: [], MISSED: [2, 1, 0]}


def test_a_breast_at_the_threshold_is_called():
    assert breasts_that_matter([1.0], [0.5], 0.5)[TRUE_POSITIVES] == [0]


@pytest.mark.parametrize("threshold", [None, math.nan])
def test_without_a_threshold_no_breast_is_chosen(threshold):
    assert not any(breasts_that_matter(LABELS, PROBABILITIES, threshold).values())


def test_breasts_without_a_label_are_not_chosen():
    assert not any(breasts_that_matter(np.full(8, np.nan), PROBABILITIES, 0.5).values())


def test_points_of_the_precision_curve_are_those_of_average_precision():
    thresholds, precision, recall, f1 = by_threshold(LABELS == 1, PROBABILITIES)
    assert thresholds.tolist() == sorted(set(PROBABILITIES))
    steps = recall - np.append(recall[1:], 0)
    assert (steps * precision).sum() == pytest.approx(average_precision(LABELS, PROBABILITIES))
    np.testing.assert_allclose(f1, 2 * precision * recall / (precision + recall))


def test_intervals_of_shares_are_wilsons():
    """By hand for 8 of 10: (0.8 + 1.92 / 10 +- 1.96 sqrt(0.016 + 0.9604 / 100)) / (1 + 3.8416 / 10)."""
    low, high = wilson(np.array([8, 0]), np.array([10, 5]))
    assert low[0] == pytest.approx(0.4902, abs=1e-4) and high[0] == pytest.approx(0.9433, abs=1e-4)
    assert low[1] == pytest.approx(0) and 0 < high[1] < 0.5


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.0000"), (0.0425399, "0.0425"), (0.000123, "0.00012"), (0.0, "0")])
def test_small_probabilities_keep_two_digits(value, text):
    assert probability_text(value) == text


def test_headline_figures_are_those_at_the_given_threshold_if_there_is_one():
    values = {"pf1": 0.3, "pf1_interval": (0.2, 0.4), "auc": None, "pf1_best": 0.5, "threshold": 0.1}
    values |= {"sensitivity": 0.9, "pf1_at_given_threshold": 0.45, "sensitivity_at_given_threshold": 0.8}
    tuned = {each.name: each for each in headline(values)}
    assert set(tuned) == {"pF1", "F1", "sensitivity"}
    assert tuned["pF1"][1:3] == (".300", ".200 to .400") and tuned["sensitivity"].value == "90.0 %"
    given = {each.name: each for each in headline(values | {"given_threshold": 0.2})}
    assert given["F1"].value == ".450" and given["sensitivity"].value == "80.0 %"
    assert "0.2, given, or found on other breasts" in given["F1"].note


@pytest.fixture
def breast(tmp_path):
    """A table of one breast with three images, of which the second is not a DICOM file and the third is missing."""
    (tmp_path / "train.csv").write_text(
        "patient_id,image_id,laterality,cancer\n1,10,R,1\n1,11,R,1\n1,12,R,1\n", encoding="utf-8"
    )
    table = read_table(tmp_path / "train.csv")
    write_drawn(tmp_path / "10.dcm")
    (tmp_path / "11.dcm").write_bytes(b"DICM, but nothing else")
    return table, [tmp_path / "10.dcm", tmp_path / "11.dcm", None]


def write_drawn(path, **elements) -> None:
    pixels = (draw(300, 200, side="right", depth=0.6)[0] * 1000).astype(np.uint16)
    make(pixels, WindowCenter=500, WindowWidth=1000, **elements).save_as(path, enforce_file_format=True)


def test_a_case_has_what_the_network_reads_and_notes_on_what_it_cannot(breast, model):
    table, files = breast
    case = case_of(table.breasts[0], table, files, model, SETTINGS, CPU, 0.25)
    assert (case.title, case.label, case.probability) == ("1_R", 1, 0.25)
    first, second, third = case.views
    np.testing.assert_array_equal(first.picture, read_picture(files[0], SETTINGS, "R"))
    _, maps = class_activation(model, to_tensor(first.picture, SETTINGS)[None], output=0)
    np.testing.assert_allclose(first.heat, maps[0].detach().numpy(), atol=1e-6)
    assert first.heat.shape == first.picture.shape and first.heat.min() >= 0 and first.heat.max() <= 1
    assert second.picture is None and second.note and str(files[1]) not in second.note
    assert third.note == "no image file"
    report = report_files(ReportData("t", np.zeros(0), np.zeros(0), cases={MISSED: [case]}))
    assert second.note in Page(report["report.html"].decode()).text
    assert list(report) == ["report.html", "missed-cancers-1-image-1.png"]


def test_the_box_lies_around_the_breast_in_the_whole_image(breast, model):
    table, files = breast
    first = case_of(table.breasts[0], table, files, model, SETTINGS, CPU, 0.25).views[0]
    top, bottom, left, right = (
        round(share * side) for share, side in zip(first.box, (300, 300, 200, 200), strict=True)
    )
    assert (top, bottom, left, right) == breast_box(read_shown(files[0], SETTINGS).image)
    height, width = first.whole.shape
    assert height / width == pytest.approx(1.5, rel=0.02)
    inside = np.zeros_like(first.whole, bool)
    inside[int(first.box[0] * height) : math.ceil(first.box[1] * height), int(first.box[2] * width) :] = True
    assert first.whole[~inside].max() < 20 < first.whole[inside].max()


def test_each_file_is_read_once(breast, model, monkeypatch):
    table, files = breast
    opened = []
    original = breasts.open_image

    def counted(path, settings):
        opened.append(path)
        return original(path, settings)

    monkeypatch.setattr(breasts, "open_image", counted)
    case_of(table.breasts[0], table, files, model, SETTINGS, CPU, 0.25)
    assert opened == files[:2]


def test_no_more_images_than_wanted_are_read(breast, model):
    table, files = breast
    assert len(case_of(table.breasts[0], table, files, model, SETTINGS, CPU, 0.25, most=1).views) == 1


def test_a_network_of_all_views_gives_a_map_of_each(breast):
    table, files = breast
    torch.manual_seed(0)
    joint = create_model("b0", num_classes=1, in_channels=1, joint_views=True).eval()
    case = case_of(table.breasts[0], table, [files[0], files[1], files[0]], joint, SETTINGS, CPU, 0.25)
    assert [None if view.heat is None else view.heat.shape for view in case.views] == [(64, 48), None, (64, 48)]


def test_a_page_is_assembled_from_scored_breasts(phantoms, model):
    table = read_table(phantoms / "train.csv")
    files = find_images(table, phantoms, "train_images")
    probabilities = table.labels[:, :1] * 0.6 + 0.2 + 0.01 * np.arange(len(files))[:, None] / len(files)
    scores = score_breasts(table, range(len(files)), probabilities)
    values = figures(scores, table, threshold=0.1)
    used = []

    def reader(breast):
        used.append(breast)
        return Reader(model, SETTINGS)

    remarks, histories = ["phantoms"], [[{"epoch": 1, "val_loss": 1.0}]]
    report = report_data("t", scores, values, table, files, reader, CPU, remarks=remarks, histories=histories)
    assert report.threshold == 0.1 and report.target == "cancer"
    np.testing.assert_array_equal(report.probabilities, scores.probabilities[:, 0])
    cases = [case for kind in KINDS for case in report.cases[kind]]
    assert [case.title for case in cases] == [breast.prediction_id for breast in used]
    assert [len(report.cases[kind]) for kind in KINDS] == [4, 4, 0]
    assert all(view.heat is not None and view.box is not None for case in cases for view in case.views)
    text = page_of(report).text
    assert "phantoms" in text and "average precision" in text and cases[0].title in text


def test_the_history_of_a_run_is_that_of_its_folder_if_it_has_one(tmp_path):
    assert read_history(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "auc": null}\n{"epoch": 2, "auc": 0.5}\n', encoding="utf-8")
    assert read_history(tmp_path) == [{"epoch": 1, "auc": None}, {"epoch": 2, "auc": 0.5}]
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1', encoding="utf-8")
    assert read_history(tmp_path) == []


def test_a_prepared_picture_has_no_crop_and_other_settings_are_refused(tmp_path):
    picture = np.rint(picture_of(0) * 255).astype(np.float32) / 255
    (tmp_path / "a.png").write_bytes(encode_picture(picture, SETTINGS, "here"))
    shown = read_shown(tmp_path / "a.png", SETTINGS)
    assert shown.box is None
    np.testing.assert_allclose(shown.picture, picture, atol=1e-6)
    with pytest.raises(ImageError, match="other settings"):
        read_shown(tmp_path / "a.png", replace(SETTINGS, crop=False))


def test_the_picture_is_the_part_that_the_network_reads(tmp_path):
    write_drawn(tmp_path / "a.dcm")
    settings = replace(SETTINGS, input_size=(40, 32))
    expected = centre(read_picture(tmp_path / "a.dcm", settings), settings)
    np.testing.assert_array_equal(read_shown(tmp_path / "a.dcm", settings).picture, expected)


def trained(**changes) -> Trained:
    """What a checkpoint says, with only what one image needs."""
    values = dict.fromkeys(Trained.__dataclass_fields__) | {
        "preprocessing": SETTINGS,
        "heads": (Target("cancer"),),
        "views": "mean",
        "logit_shift": 0.0,
    }
    return Trained(**(values | changes))


def test_one_image_has_a_text_and_a_heatmap(tmp_path, model):
    write_drawn(tmp_path / "a.dcm", ImageLaterality="R", PatientName="Doe^Jane", PatientID="12345")
    _, text, png = score_image(tmp_path / "a.dcm", trained(threshold=1.0, logit_shift=0.5), model, CPU)
    with torch.no_grad():
        logit = model(to_tensor(read_picture(tmp_path / "a.dcm", SETTINGS, "R"), SETTINGS)[None]).item() - 0.5
    lines = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)
    lines = {name: value.strip() for name, value in lines.items()}
    assert lines["file"] == str(tmp_path / "a.dcm")
    assert lines["image"].startswith("300 x 200, MONOCHROME2")
    top, bottom, left, right = breast_box(read_shown(tmp_path / "a.dcm", SETTINGS).image)
    assert lines["crop"] == f"rows {top} to {bottom}, columns {left} to {right}"
    assert lines["cancer"] == f"probability {1 / (1 + math.exp(-logit)):.4f}"
    assert lines["threshold"].endswith("would not be called") and "Not a medical device" in text
    assert "Doe" not in text and "12345" not in text
    assert pixels(png).shape == (64, 48, 3)


def test_the_text_on_an_image_says_what_each_target_means(tmp_path):
    write_drawn(tmp_path / "a.dcm")
    heads = (Target("cancer"), Target("density", "category", ("A", "B")), Target("age", "number", (), 50.0, 10.0))
    torch.manual_seed(0)
    several = create_model("b0", num_classes=4, in_channels=1).eval()
    with torch.no_grad():
        several.classifier.weight.zero_()
        several.classifier.bias.copy_(torch.tensor([0.0, 0.0, math.log(3), 0.5]))
    calibration = Calibration(1.0, math.log(3))
    _, text, _ = score_image(
        tmp_path / "a.dcm", trained(heads=heads, threshold=0.5, calibration=calibration), several, CPU
    )
    for expected in (
        "probability 0.5000",
        "probability 0.7500 of cancer",
        "B 0.7500, A 0.2500",
        "about 55",
        "would be",
    ):
        assert expected in text
    _, text, _ = score_image(tmp_path / "a.dcm", trained(heads=heads), several, CPU)
    assert "the checkpoint has none" in text and "calibrated" not in text


def test_the_header_names_the_side_only_where_the_picture_does_not_show_it(tmp_path, model):
    even = np.tile(np.linspace(200, 700, 200).astype(np.uint16)[:, None], (1, 150))
    even[100:110, 20:30] = 1000
    window = {"WindowCenter": 500, "WindowWidth": 1000}
    shown = {}
    for side in ("L", "R"):
        make(even, ImageLaterality=side, **window).save_as(tmp_path / f"even-{side}.dcm", enforce_file_format=True)
        write_drawn(tmp_path / f"drawn-{side}.dcm", ImageLaterality=side)
        for name in ("even", "drawn"):
            png = score_image(tmp_path / f"{name}-{side}.dcm", trained(), model, CPU)[2]
            shown[name, side] = pixels(png).astype(int).sum(-1)
    np.testing.assert_array_equal(shown["drawn", "L"], shown["drawn", "R"])
    assert shown["even", "L"].max(0).argmax() < 24 < shown["even", "R"].max(0).argmax()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, model):
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.dcm"):
        score_image(tmp_path / "a.dcm", trained(), model, CPU)

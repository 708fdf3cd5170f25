"""`python scale.py`: its text and its JSON."""

import json
import math
import sys
from dataclasses import fields

import PIL.Image
import pytest
from commands import ROOT, assert_one_line_error, python, run

from efficientnet.scaling import Stage


def scale_json(*arguments):
    process = run("scale.py", *arguments, "--json")
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_phi_3_prints_the_derived_architecture():
    process = run("scale.py", "--phi", 3)
    assert process.returncode == 0 and process.stderr == ""
    for text in (
        "MBConv6, k5x5",
        "341 x 341",
        "16,350,296",
        "3,250,916,456",
        "1.7280",
        "1.3310",
        "1.5209",
        "B4",
        "74.0 %",
    ):
        assert text in process.stdout


def test_json_holds_the_contract():
    result = scale_json("--phi", 3)
    assert list(result) == [
        "name",
        "coefficients",
        "image_size",
        "stages",
        "parameters",
        "multiply_adds",
        "closest_variant",
    ]
    assert set(result["coefficients"]) == {"phi", "alpha", "beta", "gamma", "depth", "width", "resolution"}
    counted = {"input_resolution", "parameters", "multiply_adds"}
    assert set(result["stages"][0]) == {field.name for field in fields(Stage)} | counted
    assert (result["image_size"], result["parameters"], result["closest_variant"]) == (341, 16_350_296, "b4")
    assert sum(stage["multiply_adds"] for stage in result["stages"]) == result["multiply_adds"] == 3_250_916_456


def test_a_variant_is_its_own_closest():
    result = scale_json("--variant", "b3")
    assert (result["closest_variant"], result["parameters"], result["image_size"]) == ("b3", 12_233_232, 300)


def test_lite_variants_are_their_own_architectures():
    result = scale_json("--variant", "lite3")
    assert (result["name"], result["parameters"], result["image_size"]) == ("lite3", 8_197_096, 280)
    assert "EfficientNet-Lite3" in run("scale.py", "--variant", "lite3").stdout


def test_phi_1_is_about_b2_and_phi_2_about_b3():
    assert scale_json("--phi", 1)["closest_variant"] == "b2"
    assert scale_json("--phi", 2)["closest_variant"] == "b3"


def test_fractional_phi_lies_between_its_neighbours():
    low, middle, high = (scale_json("--phi", phi)["multiply_adds"] for phi in (1, 1.5, 2))
    assert low < middle < high


def test_table_holds_the_eight_variants_and_the_papers_figures():
    result = scale_json("--table")
    assert [row["name"] for row in result["rows"]] == [*(f"b{i}" for i in range(9)), "l2"]
    assert [row["parameters"] for row in result["rows"][8:]] == [87_413_142, 480_309_308]
    assert result["rows"][8]["paper_parameters"] is None
    assert result["rows"][7]["paper_parameters"] == 66_000_000
    text = run("scale.py", "--table").stdout
    assert "66,347,960" in text and "37.746 G" in text


def test_fit_shows_the_gap_of_every_released_variant():
    rows = {row["variant"]: row for row in scale_json("--fit")["rows"]}
    assert list(rows) == [*(f"b{i}" for i in range(9)), "l2"]
    assert rows["b3"]["implied_phi"]["width"] == pytest.approx(1.913, abs=1e-3)
    assert 1.85 < rows["b3"]["coefficients"]["phi"] < 2.09
    assert rows["b0"]["multiply_adds"] == rows["b0"]["variant_multiply_adds"]
    text = run("scale.py", "--fit").stdout
    assert "look rounded by hand" in text and "1.85 / 1.91 / 2.09" in text
    assert "1.4 / 1.2 / 300" in text and "1.42 / 1.20 / 293" in text and max(map(len, text.splitlines())) <= 130
    depth_lags = [
        name for name, row in rows.items() if row["implied_phi"]["depth"] < min(list(row["implied_phi"].values())[1:])
    ]
    assert depth_lags == [f"b{i}" for i in range(3, 9)] and "from B3 to B8" in text


def test_budgets_are_turned_into_phi():
    result = scale_json("--budget", "1.5G")
    assert 1.4e9 < result["multiply_adds"] <= 1.5e9
    assert 1 < result["coefficients"]["phi"] < 2
    assert result["budgets"] == {"multiply_adds": {"limit": 1.5e9, "share": result["multiply_adds"] / 1.5e9}}
    assert result["binding"] == ["multiply_adds"]
    result = scale_json("--max-parameters", "10m")
    assert 9e6 < result["parameters"] <= 10e6


def test_of_two_budgets_the_one_that_binds_is_named():
    result = scale_json("--budget", "4G", "--max-parameters", "10M")
    assert result["binding"] == ["parameters"] and list(result["budgets"]) == ["multiply_adds", "parameters"]
    assert result["budgets"]["multiply_adds"]["share"] < 0.5 < 0.9 < result["budgets"]["parameters"]["share"] <= 1
    text = run("scale.py", "--budget", "4G", "--max-parameters", "10M").stdout
    lines = [line for line in text.splitlines() if line.startswith("budget")]
    assert len(lines) == 2 and "4,000,000,000 multiply-adds" in lines[0] and "% used" in lines[0]
    assert "10,000,000 parameters" in lines[1] and "binds" in lines[1] and "binds" not in lines[0]
    assert "binds" not in run("scale.py", "--budget", "1.5G").stdout


def test_the_grid_of_step_1_marks_the_papers_choice():
    rows = scale_json("--search")["rows"]
    products = [row["product"] for row in rows]
    assert all(1.9 - 1e-9 <= product <= 2.1 + 1e-9 for product in products)
    distances = [abs(math.log(row["growth"] / 2)) for row in rows]
    assert distances == sorted(distances)
    bases = [tuple(row["coefficients"][name] for name in ("alpha", "beta", "gamma")) for row in rows]
    assert (1.2, 1.1, 1.15) in bases and len(bases) == len(set(bases))
    text = run("scale.py", "--search", "--all").stdout
    assert [line.split()[1:5] for line in text.splitlines() if " * " in line[:8]] == [["*", "1.2", "1.1", "1.15"]]


def search_lines(*arguments):
    """The printed networks by their place: the rest of the line."""
    lines = run("scale.py", "--search", *arguments).stdout.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("place"))
    return {int(line.split()[0]): line.split()[1:] for line in lines[heading + 1 :] if "more:" not in line}, lines[-1]


def test_the_search_prints_the_best_15_and_always_the_papers():
    some, last = search_lines()
    whole, _ = search_lines("--all")
    places = [*range(1, 16)]
    (papers,) = (place for place in whole if whole[place][0] == "*")
    assert papers > 15 and list(some) == [*places, papers] and list(whole) == [*range(1, len(whole) + 1)]
    assert all(some[place] == whole[place] for place in some)
    assert last == f"{len(whole) - 16} more: --all shows them"
    few, last = search_lines("--step", 0.1)
    assert not any(words[0] == "*" for words in few.values()) and len(few) == 15 and "more" in last
    fewer, last = search_lines("--step", 0.2)
    assert 1 < len(fewer) < 15 and "more" not in last


@pytest.mark.parametrize("baseline", ["b0", "mobilenet_v2", "resnet50"])
def test_candidates_that_round_to_one_network_are_one_line(baseline):
    rows = scale_json("--search", "--baseline", baseline)["rows"]
    together = {}
    for row in rows:
        together.setdefault(json.dumps([row["stages"], row["image_size"]]), []).append(row)
    lines, _ = search_lines("--all", "--baseline", baseline)
    assert len(lines) == len(together) < len(rows)
    for words, same in zip(lines.values(), together.values(), strict=True):
        assert int(words[-1]) == len(same)
        shown = [float(word) for word in words[words[0] == "*" :][:3]]
        (row,) = (row for row in same if [row["coefficients"][name] for name in ("alpha", "beta", "gamma")] == shown)
        closest = min(abs(other["product"] - 2) for other in same)
        assert row["paper_choice"] or abs(row["product"] - 2) == closest
        assert row["paper_choice"] == any(other["paper_choice"] for other in same)


def test_a_grid_without_the_papers_choice_says_so():
    flags = ("--search", "--step", 0.1, "--tolerance", 0.05)
    assert not any(row["paper_choice"] for row in scale_json(*flags)["rows"])
    text = run("scale.py", *flags).stdout
    assert "1.2, 1.1, 1.15, which is not on this grid" in text and "*" not in text.partition("growth")[2]
    assert "marked *" in run("scale.py", "--search").stdout


def test_one_dimension_alone():
    result = scale_json("--depth", 4)
    assert result["image_size"] == 224
    assert result["multiply_adds"] == pytest.approx(1.575e9, rel=1e-3)
    assert result["coefficients"]["phi"] is None


def test_far_from_the_constraint_is_said_on_stderr():
    process = run("scale.py", "--phi", 1, "--gamma", 1.5, "--json")
    assert process.returncode == 0
    assert "3.267" in process.stderr and len(process.stderr.splitlines()) == 1
    assert json.loads(process.stdout)["image_size"] == 336


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--phi", -1], ["phi", "at least 0"]),
        (["--phi", "nan"], ["phi"]),
        (["--phi", 1, "--beta", 0.9], ["beta", "at least 1"]),
        (["--phi", 60], ["depth 56347.5 (alpha^phi = 1.2^60)", "layers in one stage"]),
        (["--depth", 20_000], ["depth 20000 gives", "layers"]),
        (["--width", "1e308"], ["width 1e+308", "more than a million"]),
        (["--max-parameters", "10M", "--alpha", 1, "--beta", 1], ["parameters", "alpha and beta", "both 1"]),
        (["--budget", "1e30"], ["multiply-adds", "alpha^phi = 1.2^"]),
        (["--variant", "b12"], ["b12", "b0, b1"]),
        (["--variant", "b3", "--phi", 2], ["cannot be combined"]),
        (["--resolution", 0.1], ["22 pixels"]),
        (["--width", 0], ["width", "positive"]),
        (["--ph", 1], ["--ph"]),
        (["--search", "--step", 0], ["step", "0.005"]),
        (["--search", "--tolerance", 2], ["tolerance"]),
        (["--step", 0.1], ["--search"]),
        (["--phi", 1, "--all"], ["--all", "--search"]),
        (["--budget", "fast"], ["--budget", "fast"]),
        (["--budget", "0.1G"], ["100,000,000 multiply-adds", "too small: EfficientNet-B0", "385,814,752"]),
        (["--budget", "1G", "--max-parameters", "5M"], ["5,000,000 parameters", "5,288,548"]),
        (["--budget", "1G", "--baseline", "resnet50"], ["too small: ResNet-50", "4,089,184,256"]),
        (["--baseline", "vgg16"], ["vgg16", "b0, mobilenet_v1, mobilenet_v2, resnet50"]),
        (["--baseline", "resnet50", "--table"], ["--baseline", "does not apply to --table"]),
        (["--baseline", "mobilenet_v1", "--resolution", 0.1], ["22 pixels"]),
        (["--paper", "table9"], ["table9", "table3, table7"]),
        (["--paper", "table3", "--fit"], ["cannot be combined"]),
        (["--plot", "family.gif"], ["family.gif", ".png"]),
        (["--budget", "1G", "--phi", 1], ["cannot be combined"]),
        (["--variant", "b1", "--alpha", 1.3], ["--alpha", "do not apply to --variant"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words):
    assert_one_line_error(run("scale.py", *arguments), 2, *words)


@pytest.mark.parametrize(
    ("baseline", "arguments", "parameters", "image_size"),
    [
        ("mobilenet_v1", [], 4_231_976, 224),
        ("mobilenet_v2", ["--phi", 0], 3_504_872, 224),
        ("mobilenet_v2", ["--resolution", 2], 3_504_872, 448),
        ("resnet50", ["--depth", 1], 25_557_032, 224),
        ("resnet50", ["--width", 2], 98_004_072, 224),
    ],
)
def test_any_baseline(baseline, arguments, parameters, image_size):
    result = scale_json("--baseline", baseline, *arguments)
    assert (result["parameters"], result["image_size"]) == (parameters, image_size)


def test_a_scaled_baseline_is_printed_with_its_own_operators():
    text = run("scale.py", "--baseline", "resnet50", "--phi", 1).stdout
    for words in ("ResNet-50 at phi 1", "Conv7x7", "MaxPool3x3", "Bottleneck, k3x3", "Pool & FC", "38,932,304", "B5"):
        assert words in text
    assert "number in a variant's name" not in text  # a remark on EfficientNet's own names


def test_search_and_budgets_on_another_baseline():
    rows = scale_json("--search", "--baseline", "mobilenet_v2", "--step", 0.1)["rows"]
    assert rows[0]["name"].startswith("mobilenet_v2 at phi 1") and not any(row["paper_choice"] for row in rows)
    assert [row["paper_choice"] for row in scale_json("--search")["rows"]].count(True) == 1
    result = scale_json("--budget", "1G", "--baseline", "mobilenet_v2")
    assert 0.9e9 < result["multiply_adds"] <= 1e9


def test_paper_tables_stand_beside_ours():
    rows = scale_json("--paper", "table7")["rows"]
    assert [round(row["multiply_adds"] / 1e9, 3) for row in rows] == [0.386, 1.575, 1.450, 1.538, 1.800]
    assert [row["reproduces"] for row in rows] == [True, False, False, False, True]
    text = run("scale.py", "--paper", "table3").stdout
    for words in ("4 of the 12 rows", "14.571 G; the paper has 16.2 B", "inferred: phi 2.01", "+10.9%"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 130


def test_the_plot_is_a_picture_and_json_says_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "family.png"
    shown = scale_json("--plot", path)
    with PIL.Image.open(path) as picture:
        assert picture.size[0] > 800 and len(set(picture.convert("L").tobytes())) > 20
    assert [point["name"] for point in shown["points"]] == [*(f"B{i}" for i in range(9)), "L2"]
    assert shown["curve"][0] == {"phi": 0, "parameters": 5_288_548, "multiply_adds": 385_814_752}
    assert [path.name for path in tmp_path.iterdir()] == ["family.png"]


def test_without_matplotlib_the_plot_asks_for_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    process = run("scale.py", "--plot", tmp_path / "x.png")
    assert_one_line_error(process, 1, "matplotlib", "pip install", "[report]")
    assert not (tmp_path / "x.png").exists()


def test_a_plot_makes_its_folder_and_fails_in_one_line_where_it_cannot_be_written(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "x.png"
    assert run("scale.py", "--plot", path).returncode == 0 and path.exists()
    (tmp_path / "x.png").mkdir()
    assert_one_line_error(run("scale.py", "--plot", tmp_path / "x.png"), 2, f"{tmp_path / 'x.png'} is a folder")


def test_the_plot_stops_where_it_is_drawn_to(tmp_path):
    """With alpha 2, architectures far outside the plot are too deep to count."""
    pytest.importorskip("matplotlib")
    bases = ("--alpha", 2, "--beta", 1, "--gamma", 1)
    curve = scale_json("--plot", tmp_path / "deep.png", *bases)["curve"]
    assert 10 < curve[-1]["phi"] < 11


def test_no_torch_is_imported():
    code = "import sys, runpy; sys.argv = ['scale.py']\ntry: runpy.run_path('scale.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    process = python("-c", code)
    assert process.returncode == 0, process.stderr
    assert ROOT.joinpath("scale.py").is_file()

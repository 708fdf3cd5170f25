"""`python scale.py`: what a person and a program read from it."""

import json
import math

import pytest
from commands import ROOT, assert_one_line_error, run


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
    assert set(result["stages"][0]) == {
        "operator",
        "kernel_size",
        "stride",
        "expansion",
        "in_channels",
        "out_channels",
        "layers",
        "input_resolution",
        "parameters",
        "multiply_adds",
    }
    assert (result["image_size"], result["parameters"], result["closest_variant"]) == (341, 16_350_296, "b4")
    assert sum(stage["multiply_adds"] for stage in result["stages"]) == result["multiply_adds"] == 3_250_916_456


def test_a_variant_is_its_own_closest():
    result = scale_json("--variant", "b3")
    assert (result["closest_variant"], result["parameters"], result["image_size"]) == ("b3", 12_233_232, 300)


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
    assert "rounded them by hand" in text and "1.85 / 1.91 / 2.09" in text


def test_budgets_are_turned_into_phi():
    result = scale_json("--budget", "1.5G")
    assert 1.4e9 < result["multiply_adds"] <= 1.5e9
    assert 1 < result["coefficients"]["phi"] < 2
    result = scale_json("--max-parameters", "10m")
    assert 9e6 < result["parameters"] <= 10e6


def test_the_grid_of_step_1_marks_the_papers_choice():
    rows = scale_json("--search")["rows"]
    products = [row["product"] for row in rows]
    assert all(1.9 - 1e-9 <= product <= 2.1 + 1e-9 for product in products)
    distances = [abs(math.log(row["growth"] / 2)) for row in rows]
    assert distances == sorted(distances)
    bases = [tuple(row["coefficients"][name] for name in ("alpha", "beta", "gamma")) for row in rows]
    assert (1.2, 1.1, 1.15) in bases and len(bases) == len(set(bases))
    text = run("scale.py", "--search").stdout
    assert [line.split()[1:4] for line in text.splitlines() if line.startswith("*")] == [["1.2", "1.1", "1.15"]]
    assert len(scale_json("--search", "--step", 0.1, "--tolerance", 0.05)["rows"]) < len(rows)


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
        (["--phi", 60], ["layers"]),
        (["--variant", "b12"], ["b12", "b0, b1"]),
        (["--variant", "b3", "--phi", 2], ["exclude"]),
        (["--resolution", 0.1], ["22 pixels"]),
        (["--width", 0], ["width", "positive"]),
        (["--ph", 1], ["--ph"]),
        (["--search", "--step", 0], ["step", "0.005"]),
        (["--search", "--tolerance", 2], ["tolerance"]),
        (["--step", 0.1], ["--search"]),
        (["--budget", "fast"], ["--budget", "fast"]),
        (["--budget", "0.1G"], ["below the baseline", "385,814,752"]),
        (["--budget", "1G", "--phi", 1], ["exclude"]),
        (["--variant", "b1", "--alpha", 1.3], ["--alpha", "no part in --variant"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words):
    assert_one_line_error(run("scale.py", *arguments), 2, *words)


def test_no_torch_is_imported():
    code = "import sys, runpy; sys.argv = ['scale.py']\ntry: runpy.run_path('scale.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    process = run("-c", code)
    assert process.returncode == 0, process.stderr
    assert ROOT.joinpath("scale.py").is_file()

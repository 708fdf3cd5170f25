"""What the READMEs say: links resolve, commands parse, numbers are those of the code, named tests exist."""

import ast
import importlib
import inspect
import re

import pytest
from commands import ROOT, module_of, run
from documentation import READMES, blocks, commands, links, renewed
from tiny_photographs import write_photographs
from torch.distributed.run import parse_args

from efficientnet.common.command_line import Parser
from efficientnet.complexity import complexity
from efficientnet.scaling import VARIANTS
from efficientnet.weights.published import PUBLISHED

readmes = pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
# Commands of others that the READMEs use.
OTHERS = {".", "cd", "cp", "git", "mkdir", "pytest", "tar"}


@readmes
def test_links_resolve_and_pictures_are_small(readme):
    for _, target in links(readme):
        file = readme.parent / target.partition("#")[0]
        assert file.exists(), target
        assert file.suffix not in (".png", ".svg") or file.stat().st_size < 200_000, target


@readmes
def test_links_to_code_name_todays_lines(readme):
    assert readme.read_text(encoding="utf-8") == renewed(readme), "run python tests/documentation.py"


@readmes
def test_commands_parse(readme, tmp_path, monkeypatch):
    plain, extras = Parser.parse_args, (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def parse_and_stop(self, argv):
        plain(self, argv)
        raise SystemExit("parsed")

    monkeypatch.chdir(tmp_path)  # some name files that they would write
    for folder in ("PHOTOS", "IMAGENET", "CIFAR"):  # the folder decides which flags there are
        write_photographs(tmp_path / folder, 1, 1)
    count = 0
    for words in commands(readme):
        words = [word.replace("/kaggle/", "kaggle/") for word in words]
        if words[0] == "srun":
            words = words[1:]
        if words[0] == "torchrun":
            launched = parse_args(words[1:])
            words = ["python", launched.training_script, *launched.training_script_args]
        if words[0] == "pip":
            for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
                assert f"\n{extra} = [" in extras, words
        elif words[0] == "python" and words[1:] != ["-m", "efficientnet"]:
            place = 2 if words[1] == "-m" else 1
            with monkeypatch.context() as patch:
                patch.setattr(Parser, "parse_args", parse_and_stop)
                assert module_of(words[place]).main(words[place + 1 :]) == ("parsed" if "--help" not in words else 0), (
                    words
                )
            count += 1
        else:
            assert words[0] in OTHERS or words[1] == "-m", words
    assert count


@readmes
def test_python_calls_what_is_there(readme):
    for language, content in blocks(readme):
        if language != "python":
            continue
        tree, names = ast.parse(content), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                names |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in names:
                keywords = {keyword.arg: None for keyword in node.keywords}
                inspect.signature(names[node.func.id]).bind(*node.args, **keywords)


def test_the_family_table_is_what_the_code_computes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (B\d|L2) \| (.*) \|$", text, re.MULTILINE)
    assert [name.lower() for name, _ in rows] == list(VARIANTS)
    for name, row in rows:
        variant = VARIANTS[name.lower()]
        counts = complexity(variant.stages, variant.image_size)
        parameters, multiply_adds, pixels, top1, weights, *_ = row.split(" | ")
        assert parameters == f"{counts.parameters:,}"
        assert multiply_adds == f"{counts.multiply_adds / 1e9:.3f} G"
        assert int(pixels) == variant.image_size
        assert top1 == (f"{variant.paper_top1:.1f}" if variant.paper_top1 else "-")
        sources = re.findall(r"`([^`]+)`", weights)
        assert sources and all(f"_{name.lower()}." in source and source in PUBLISHED for source in sources)


def test_the_budget_of_the_walk_gives_what_it_says():
    said = "EfficientNet-B0 at phi 1.6093, 280 pixels, 1,491,140,560 multiply-adds"
    assert said in (ROOT / "efficientnet" / "README.md").read_text(encoding="utf-8")
    assert ": 1.6093\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    output = run("scale.py", "--budget", "1.5G").stdout
    assert all(words in output for words in ("EfficientNet-B0 at phi 1.6093\n", "280 x 280", "1,491,140,560"))


def test_every_test_that_the_promises_name_is_there():
    text = (ROOT / "efficientnet" / "training" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| (`.*test_.*`) \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for file, test in re.findall(r"`(\S+): (test_\w+)`", row):
            path = ROOT / "tests" / "training" / file
            assert f"def {test}(" in path.read_text(encoding="utf-8"), test
        assert row.count("`") == 2 * len(re.findall(r"`(\S+): (test_\w+)`", row)), row


def test_every_promise_of_the_readme_links_its_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = text.partition("## What it promises")[2].partition("\n## ")[0]
    items = promises.split("\n- ")[1:]
    assert items and all(re.search(r"\(tests/[\w/]*test_\w+\.py\)", item) for item in items)

"""The READMEs: their links to code, and the commands in them.

`python tests/documentation.py` renews the line numbers of links to code:
[`scale`](efficientnet/scaling.py#L235-L265), and
[`scale`, scaling.py 235-265](efficientnet/scaling.py#L235-L265), which shows them.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", *sorted((ROOT / "efficientnet").rglob("README.md"))]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def links(path: Path) -> list[tuple[str, str]]:
    """(text, target) of each link and picture of a README that is not on the web."""
    found = LINK.findall(path.read_text(encoding="utf-8"))
    return [(text, target) for text, target in found if not target.startswith("http")]


def lines_of(source: Path, name: str) -> str:
    """The anchor of a function, a class or a constant with the comment above it: "L235-L265"; "L40" for one line."""
    text = source.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if getattr(node, "name", None) == name or name in [getattr(target, "id", None) for target in targets]:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            while text.splitlines()[first - 2].startswith("#"):
                first -= 1
            return f"L{first}" if first == node.end_lineno else f"L{first}-L{node.end_lineno}"
    raise LookupError(f"{source} has no {name}")


def renewed(path: Path) -> str:
    """The README with the lines of today in the links whose text is a name in code."""

    def with_lines(found: re.Match[str]) -> str:
        text, target = found.groups()
        named = re.fullmatch(r"`(\w+)`(, \S+ [\d-]+)?", text)
        if not (named and ".py" in target):
            return found[0]
        file = target.partition("#")[0]
        lines = lines_of(path.parent / file, named[1])
        if named[2]:
            shown = Path(file)
            place = f"{shown.parent.name}/{shown.name}" if shown.name == "__init__.py" else shown.name
            text = f"`{named[1]}`, {place} {lines.replace('L', '')}"
        return f"[{text}]({file}#{lines})"

    return LINK.sub(with_lines, path.read_text(encoding="utf-8"))


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each command in a fenced block without a language, and of each `python ...` in the text."""
    for language, content in blocks(path):
        if not language:
            for line in content.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("!"), comments=True)
                while words:
                    end = next((place for place, word in enumerate(words) if word in ("&&", "|")), len(words))
                    yield words[:end]
                    words = words[end + 1 :]
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for inline in re.findall(r"`(python [^`]*)`", text):
        yield shlex.split(inline)


if __name__ == "__main__":
    for readme in READMES:
        readme.write_text(renewed(readme), encoding="utf-8")

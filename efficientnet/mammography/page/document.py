"""A report as files: one HTML page that needs no other file and no network, and its pictures as PNG files."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from efficientnet.mammography.figures import Section
from efficientnet.mammography.page.content import (
    FALSE_POSITIVES,
    KINDS,
    MISSED,
    TRUE_POSITIVES,
    Case,
    Measure,
    ReportData,
    View,
)
from efficientnet.mammography.page.heatmap import BOX, as_levels, fitted, heat_colors, overlaid, png
from efficientnet.mammography.page.plots import Plot, plots, png_files, training_plots

PAGE = "report.html"
# The largest (height, width) of a picture in the page. Browsers enlarge the activation smoothly.
PICTURE, HEAT, WHOLE = (480, 480), (96, 96), (320, 320)
NOT_A_DEVICE = "Not a medical device, and not tested as one: not for diagnosis, triage or any decision about a person."
NONE = {
    TRUE_POSITIVES: "No positive breast is called.",
    FALSE_POSITIVES: "No negative breast is called.",
    MISSED: "No positive breast is below the threshold.",
}


def report_files(data: ReportData) -> dict[str, bytes]:
    """The files of a report, by name: report.html and PNG files. The same data give the same bytes.

    Raises ValueError for labels other than 0 and 1 or missing probabilities, and MissingExtra without matplotlib.
    """
    results, training = plots(data), training_plots(data)
    page = document(data, results, training).encode("utf-8", "backslashreplace")  # file names may be any bytes
    pictures = {
        f"{kind.replace(' ', '-')}-{place}-image-{number}.png": png(both(view))
        for kind in KINDS
        for place, case in enumerate(data.cases.get(kind, ()), 1)
        for number, view in enumerate(case.views, 1)
        if view.picture is not None
    }
    return {PAGE: page} | dict(chain(png_files(results), png_files(training))) | pictures


def both(view: View) -> Image.Image:
    """The whole image with the crop outlined, if there is one, beside the picture with its activation."""
    right = fitted(overlaid(view.picture, view.heat), PICTURE)
    if view.whole is None:
        return right
    left = Image.fromarray(view.whole).convert("RGB")
    left = left.resize((max(1, round(left.width * right.height / left.height)), right.height))
    if view.box is not None:
        top, bottom, first, last = view.box
        corners = (first * left.width, top * left.height, last * left.width - 1, bottom * left.height - 1)
        ImageDraw.Draw(left).rectangle(corners, outline=BOX, width=2)
    page = Image.new("RGB", (left.width + 4 + right.width, right.height))
    page.paste(left, (0, 0))
    page.paste(right, (left.width + 4, 0))
    return page


def document(data: ReportData, results: Sequence[Plot], training: Sequence[Plot]) -> str:
    """The page as HTML, with the plots of the breasts and those of the training."""
    labels = np.asarray(data.labels)
    count = f"{len(labels)} breasts, {int((labels == 1).sum())} with {data.target}"
    if data.threshold is not None:
        count += f"; a breast is called from a probability of {data.threshold:.4g}"
    parts = [
        f"<h1>{escape(data.title)}</h1>",
        f"<p class=lead>{escape(count)}</p>",
        *(f"<p class=remark>{escape(text)}</p>" for text in data.remarks),
    ]
    if data.headline:
        parts.append(f"<div class=measures>{''.join(map(measure, data.headline))}</div>")
    parts.append(f"<div class=plots>{''.join(map(figure, results))}</div>")
    parts += breasts(data)
    if training:
        parts.append(f"<h2>Training</h2><div class=plots>{''.join(map(figure, training))}</div>")
    if data.tables:
        parts += ["<h2>All figures</h2>", *map(table, data.tables)]
    parts += ["<h2>Limits</h2>", *(f"<p>{escape(text)}</p>" for text in (NOT_A_DEVICE, *data.limits))]
    return HEAD.replace("TITLE", escape(data.title)) + "\n".join(parts) + "\n</main>\n</html>\n"


def measure(each: Measure) -> str:
    interval = f"<span>95 %: {escape(each.interval)}</span>" if each.interval else ""
    name, value, note = escape(each.name), escape(each.value), escape(each.note)
    return f"<div><b>{value}</b><strong>{name}</strong>{interval}<span>{note}</span></div>"


def probability_text(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.2g}"


def figure(each: Plot) -> str:
    if each.light is None or each.dark is None:
        content = f"<p>{escape(each.text)}</p>"
    else:
        content = (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{uri(each.dark)}">'
            f'<img src="{uri(each.light)}" alt="{escape(each.title)}: {escape(each.text)}"></picture>'
        )
    return f"<figure><figcaption>{escape(each.title)}</figcaption>{content}</figure>"


def breasts(data: ReportData) -> Iterator[str]:
    """Yield the section of single breasts, if the data have any kind."""
    if not data.cases:
        return
    yield "<h2>Breasts that matter</h2>"
    yield (
        "<p>Left, the whole image, with the crop outlined. Right, what the network reads, perhaps mirrored so that the "
        "chest wall is always on the same side, and in colour where it found "
        f"evidence for {escape(data.target)}: the brighter, the more, compared to the rest of the same image. An image "
        "without colour has none. The colours show what moved the network, not the outline of a lesion.</p>"
    )
    yield "<input type=checkbox id=heat checked><label for=heat> colours</label><div class=kinds>"
    for kind in KINDS:
        cases = data.cases.get(kind, ())
        yield f"<h3>{kind.capitalize()}</h3>"
        cards = "".join(card(case, data) for case in cases)
        yield f"<div class=cases>{cards}</div>" if cards else f"<p>{NONE[kind]}</p>"
    yield "</div>"


def card(case: Case, data: ReportData) -> str:
    truth = data.target if case.label == 1 else f"no {data.target}"
    text = f"probability <b>{probability_text(case.probability)}</b>, {escape(truth)}"
    views = "".join(map(view_figure, case.views))
    return f"<article><h4>{escape(case.title)}</h4><p>{text}</p><div class=views>{views}</div></article>"


def view_figure(view: View) -> str:
    name = escape(view.image_name)
    note = f"<span class=note>{escape(view.note)}</span>" if view.note else ""
    pictures = ""
    if view.whole is not None:
        pictures += framed(fitted(Image.fromarray(view.whole), WHOLE), f"whole image {name}", outline(view))
    if view.picture is not None:
        over = "" if view.heat is None else f'<img class=heat src="{uri(heat_png(view.heat))}" alt="activation">'
        pictures += framed(fitted(Image.fromarray(as_levels(view.picture)), PICTURE), f"crop of image {name}", over)
    return f"<figure><div class=pair>{pictures}</div><figcaption>{name}{note}</figcaption></figure>"


def framed(image: Image.Image, text: str, over: str) -> str:
    """An image with something over it. Neighbours grow by their aspect ratio, which makes them equally high."""
    aspect = f"{image.width / image.height:.4f}"
    return f'<div style="flex:{aspect}"><img src="{uri(png(image))}" alt="{text}">{over}</div>'


def heat_png(heat: NDArray[Any]) -> bytes:
    """The colours of an activation at a low resolution."""
    values = np.asarray(fitted(Image.fromarray(np.asarray(heat, np.float32)), HEAT))
    return png(Image.fromarray(heat_colors(values)))


def outline(view: View) -> str:
    if view.box is None:
        return ""
    top, bottom, left, right = (100 * end for end in view.box)
    where = f"top:{top:.2f}%;left:{left:.2f}%;height:{bottom - top:.2f}%;width:{right - left:.2f}%"
    return f'<div class=box style="{where}"></div>'


def table(section: Section) -> str:
    cells = "".join(f"<th scope=col>{escape(text)}</th>" for text in (section.title, *section.headings))
    rows = "".join(
        f"<tr><th scope=row>{escape(line.name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in line.cells)}</tr>"
        for line in section.lines
    )
    return f"<div class=table><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


# The policy forbids every request, whatever a text of the data contains.
HEAD = """<!DOCTYPE html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>TITLE</title>
<style>
:root { --page: #f6f8fa; --card: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d0d7de; --alert: #fff3c4 }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --card: #1c2128; --ink: #e6edf3; --faint: #9da7b3; --line: #444c56; --alert: #4b3a07 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1200px; margin: auto; padding: 16px; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4em 0 }
h2 { font-size: 1.25rem; margin: 2em 0 .5em }
h3 { font-size: 1.05rem; margin: 1.5em 0 .5em }
h4 { font-size: 1rem; margin: 0 }
p { margin: .5em 0 }
figure { margin: 0 }
.lead, figcaption, .measures span { color: var(--faint) }
.remark { background: var(--alert); border-radius: 6px; padding: 8px 12px }
.measures, .plots, .cases { display: grid; gap: 12px; margin: 16px 0 }
.measures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 165px), 1fr)) }
.plots, .cases { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)) }
.measures > div, .plots > figure, article { background: var(--card); border: 1px solid var(--line); border-radius: 8px }
.measures > div, article { padding: 12px }
.measures b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums }
.measures strong, .measures span { display: block }
.measures span { font-size: .8rem; line-height: 1.35 }
.plots > figure { padding: 10px }
.plots figcaption { color: var(--ink); font-weight: 600 }
.plots img { display: block; width: 100%; height: auto }
.views { display: grid; gap: 8px }
.pair { display: flex; gap: 3px; align-items: flex-start }
.pair > div { position: relative; min-width: 0; background: #000 }
.pair img { display: block; width: 100%; height: auto }
.pair img.heat { position: absolute; inset: 0; height: 100% }
.box { position: absolute; border: 2px solid #ffbe00 }
.views figcaption { font-size: .8rem }
.note { display: block }
#heat:not(:checked) ~ .kinds .heat { visibility: hidden }
.table { overflow-x: auto; margin: 12px 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 5px 12px; border-top: 1px solid var(--line); white-space: nowrap }
thead th { border-top: 0; background: var(--page) }
tbody th { font-weight: 400; width: 30% }
</style>
</head>
<body>
<main>
"""

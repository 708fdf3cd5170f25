"""Measure where time does not follow multiply-adds: the family, other sizes of B0, and other architectures."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

from efficientnet.baselines.stages import get_architecture
from efficientnet.benchmark.compare import Contestant, counts_of, measured_rows
from efficientnet.benchmark.worker import FAST, Task

FAMILY = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")
SIZES = (128, 160, 320, 448)  # more image sizes for B0
OTHERS = ("mobilenet_v2", "resnet50")

WHY = """\
Multiply-adds count arithmetic, but every layer also writes values that the next one reads. Depthwise convolutions,
norms, activations and gates do little arithmetic per value. A ResNet-50 does {resnet:.0f} multiply-adds for each value
that its convolutions write, a B0 {b0:.0f} and a B7 {b7:.0f}: arithmetic limits the ResNet, memory the others. Small
images and batches add the fixed cost of calls for many thin layers, and large batches and images no longer fit the
caches."""


def compare_costs(task: Task, rounds: int, machine: dict[str, float]) -> tuple[str, dict[str, Any]]:
    """Measure each architecture as written and on the fast path, in fp32; return the text and its values for --json.

    The text gives milliseconds per image and per billion multiply-adds.
    """
    family, others = ([(name, get_architecture(name).image_size) for name in names] for names in (FAMILY, OTHERS))
    cases = [*family, *(("b0", size) for size in SIZES), *others]
    entries = []
    for name, size in cases:
        plain = replace(task, variant=name, image_size=size)
        entries += [Contestant(f"{name}, as written", plain), Contestant(f"{name}, fast", replace(plain, path=FAST))]
    measured, failures = measured_rows(entries, rounds, machine)
    rows = []
    for (name, size), plain, fast in zip(cases, measured[::2], measured[1::2], strict=True):
        if plain is None or fast is None:
            continue
        counts = counts_of(name, size)
        rows.append(
            {
                "variant": name,
                "image_size": size,
                "multiply_adds": counts.multiply_adds,
                "activations": counts.activations,
                "seconds_an_image": {
                    "as_written": 1 / plain["images_per_second"],
                    "fast": 1 / fast["images_per_second"],
                },
            }
        )
    return text(rows, task.batch_size), {"batch_size": task.batch_size, "rows": rows, "failures": failures}


def text(rows: list[dict[str, Any]], batch_size: int) -> str:
    lines = [
        f"prediction, batch of {batch_size}, fp32: multiply-adds, values written by convolutions, ms per image",
        "",
        f"{'':<14}{'pixels':>7}{'G m-adds':>10}{'M values':>10}{'m-adds':>8}" + 2 * f"{'ms':>9}{'ms per':>8}",
        f"{'':<14}{'':>7}{'':>10}{'':>10}{'a value':>8}{'written':>9}{'G':>8}{'fast':>9}{'G':>8}",
    ]
    for entry in rows:
        giga, values = entry["multiply_adds"] / 1e9, entry["activations"] / 1e6
        plain, fast = (1000 * entry["seconds_an_image"][path] for path in ("as_written", "fast"))
        lines.append(
            f"{entry['variant']:<14}{entry['image_size']:>7}{giga:>10.2f}{values:>10.1f}{1000 * giga / values:>8.0f}"
            f"{plain:>9.1f}{plain / giga:>8.1f}{fast:>9.1f}{fast / giga:>8.1f}"
        )
    shares = {
        name: counts.multiply_adds / counts.activations
        for name, counts in (
            ("resnet", counts_of("resnet50", 224)),
            ("b0", counts_of("b0", 224)),
            ("b7", counts_of("b7", 600)),
        )
    }
    return "\n".join(lines) + "\n\n" + textwrap.fill(WHY.format(**shares), 120)

"""Draw a data set of synthetic mammograms ("phantoms") in the layout of RSNA's competition.

python -m efficientnet.mammography.phantom --output RSNA --patients 12 --test-patients 3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from efficientnet.common.command_line import Parser, command, leave, number, output_folder, program_name
from efficientnet.common.cpu import usable_cores
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.phantom.image import DEFAULT_SIZE
from efficientnet.mammography.phantom.patient import CANCER_RATE, MOST_PATIENTS, Parameters, phantom_patients
from efficientnet.mammography.settings import DEMO_PATIENTS

PROGRAM = program_name("python -m efficientnet.mammography.phantom")


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--patients",
        type=number(int, 1, MOST_PATIENTS),
        default=DEMO_PATIENTS,
        metavar="N",
        help=f"patients of train.csv (default: {DEMO_PATIENTS})",
    )
    parser.add_argument(
        "--test-patients",
        type=number(int, 0, MOST_PATIENTS),
        default=0,
        metavar="N",
        help="patients of test.csv (default: 0)",
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=0, metavar="N", help="seed of the whole set (default: 0)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=DEFAULT_SIZE,
        metavar=("H", "W"),
        help="height and width in pixels (default: {} {})".format(*DEFAULT_SIZE),
    )
    parser.add_argument(
        "--cancer-rate",
        type=number(float, 0, 1),
        default=CANCER_RATE,
        metavar="F",
        help=f"share of patients with cancer, about 0.04 in the competition (default: {CANCER_RATE:g})",
    )
    parser.add_argument(
        "--conspicuity",
        type=number(float, 0, 2),
        default=1.0,
        metavar="F",
        help="factor on contrast and diameter of the cancers; 0.5: hard, 0: invisible (default: 1)",
    )
    parser.add_argument(
        "--workers", type=number(int, 1), default=usable_cores(), metavar="N", help="processes (default: one per core)"
    )
    arguments = parser.parse_args(argv)
    values = dict(vars(arguments), size=tuple(arguments.size))
    output, workers = values.pop("output"), values.pop("workers")
    try:
        parameters = Parameters(**values)
    except ValueError as error:
        parser.error(str(error))
    complete = (output / "phantom.json").is_file()
    write_phantom_dataset(output, **values, workers=workers, progress=sys.stderr.isatty())
    print(f"{output}: {'already complete, nothing written' if complete else 'written'}: {summary(parameters)}")


def summary(parameters: Parameters) -> str:
    """One line on the contents of a set with these parameters."""
    patients = phantom_patients(parameters)
    parts = []
    for split in ("train", "test"):
        women = [patient for patient in patients if patient.split == split]
        cancers = sum(breast.cancer for patient in women for breast in patient.breasts)
        if women:
            parts.append(
                f"{split}.csv and {split}_images/ (DICOM images {4 * len(women)}, patients {len(women)}, "
                f"breasts {2 * len(women)}, breasts with cancer {cancers})"
            )
    return ", ".join(parts)


if __name__ == "__main__":
    leave(main())

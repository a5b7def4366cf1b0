"""Make the features of recordings once, in the layout of the dataset `folder`.

limssr extract RECORDINGS OUT [--recipe classic] [--workers 4]

RECORDINGS is a folder of recordings (`<id>.mp4` or any other format, at any depth), perhaps below `recordings/` beside
a `labels.csv`, or a CSV with the columns `sample_id` and `recording` and perhaps `start` and `end` in seconds, which
that `labels.csv` may be too; other columns are labels. A recipe is a name (classic, offline, pamfn, ...) or a JSON
file; a modality that it makes of text, such as the `commentary` of classic_text, is a column of its name. OUT then
trains with `limssr train folder.yaml --data_options folder=OUT`.

A recording that cannot be used is listed with its reason and stops nothing; the exit status is then 1. The same
command again continues where it was stopped, and makes again what has another recording, part or text by now. On many
machines, each does its part of the same OUT: `--part 3/64`.
"""

import argparse
import sys
from pathlib import Path

from limssr.training.utils.launching import exit_on_error, run_script, script_parser

LISTED_FAILURES = 20


def main(argv: list[str] | None = None) -> int:
    parser = script_parser(__doc__, allow_abbrev=False)
    parser.add_argument("recordings", metavar="RECORDINGS", type=Path, help="folder or CSV")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the features; continues where it stopped")
    parser.add_argument("--recipe", default="classic", help="name or JSON file (default: classic)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per core if there are many)")
    parser.add_argument("--outside_paths", action="store_true", help="paths in the CSV may lead out of its folder")
    parser.add_argument("--part", type=read_part, default=(1, 1), metavar="K/N", help="do the K-th of N parts")
    arguments = parser.parse_args(argv)
    with exit_on_error():
        from limssr.processing.recipes_limssr import Recipe
        from limssr.processing.recordings_limssr import import_media
        from limssr.training.data.extract import extract_features, find_material, read_labels
        from limssr.training.utils.locks import lock

        import_media("av")
        recipe = Recipe.load(arguments.recipe)
        found = find_material(arguments.recordings, recipe, arguments.outside_paths)
        labels = read_labels(arguments.recordings, recipe)
        number, parts = arguments.part
        chosen = dict(list(found.items())[number - 1 :: parts])
        with lock(arguments.out / f".part-{number}-of-{parts}.lock"):
            failed = extract_features(chosen, arguments.out, recipe, arguments.workers, labels)
    for each in failed[:LISTED_FAILURES]:
        print(f"ERROR {each.sample_id}: {each.error}", file=sys.stderr)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} recordings are in {arguments.out}", flush=True)
    return 1 if failed else 0


def read_part(text: str) -> tuple[int, int]:
    """`3/64` -> (3, 64)."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected K/N, such as 3/64")
    return int(number), int(parts)


if __name__ == "__main__":
    run_script(main)

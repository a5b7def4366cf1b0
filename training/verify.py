"""Verify audit records: score again, and say that all is equal, or what differs.

limssr verify RECORD.json

RECORD.json is a file of `limssr predict ... --audit RECORD.json`. Compared are the weights, configuration, processor
and recipe of the model, versions, contents of the files, and scores with their intervals. A model of the Hub is loaded
in the revision of the record. The exit status is 1 where something differs.
"""

from pathlib import Path

from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.text import printable


def main() -> int:
    parser = script_parser(__doc__)
    parser.add_argument("record", metavar="RECORD", type=Path, help="file of `limssr predict --audit`")
    arguments = parser.parse_args()
    with exit_on_error(f"cannot verify {arguments.record}"):
        from limssr.training.prediction.audit import read_records, verify_records

        records, count = read_records(arguments.record), 0
        for record, differing in verify_records(records):
            count += bool(differing)
            print(printable(f"{record['sample_id']}: {'; '.join(differing) or 'equal'}"), flush=True)
    print(f"{len(records) - count} of {len(records)} records are equal")
    return 1 if count else 0


if __name__ == "__main__":
    run_script(main)

"""Compares what `deploy/local/demo --json` has told, and its Parquet files, with the simulator's truth.

usage: demo_counts.py TOLD.json DEMO_FOLDER
"""

import json
import pathlib
import sys

import pyarrow.dataset as ds


def main(told_file: str, folder: str) -> None:
    company = pathlib.Path(folder) / "company"
    told = json.loads(pathlib.Path(told_file).read_text())
    truth = json.loads((company / "truth/summary.json").read_text())

    def rows(table: str) -> int:
        return ds.dataset(company / "parquet" / table, format="parquet", partitioning="hive").count_rows()

    def counted(list_of: str) -> dict:
        return {entry["name"]: entry["count"] for entry in told[list_of]}

    wrong = [
        f"{what}: told {found}, the truth is {expected}"
        for what, found, expected in (
            ("pulled", told["run"]["pulled"], truth["records"]),
            ("messages", told["messages"], truth["messages"]),
            ("messages before FINAL", told["messages_before_final"], truth["messages"]),
            ("violations", told["violations"], truth["violations"]),
            ("violations before FINAL", told["violations_before_final"], truth["violations"]),
            ("dead letters", told["dead_letters"], truth["dead_letters"]),
            ("duplicates", told["run"]["duplicates"], truth["duplicates"]),
            ("reasons", counted("reasons"), truth["by_reason"]),
            ("messages in Parquet", rows("messages"), truth["messages"]),
            ("violations in Parquet", rows("violations"), truth["violations"]),
        )
        if found != expected
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"the demo's counts equal the truth: {truth['messages']} messages, {truth['violations']} violations")


main(*sys.argv[1:])

"""Compares the report of `deploy/local/demo --json` and its Parquet files with the simulator's truth.

usage: demo_counts.py REPORT.json DEMO_FOLDER
"""

import json
import pathlib
import sys

import pyarrow.dataset as ds


def main(report_file: str, folder: str) -> None:
    company = pathlib.Path(folder) / "company"
    report = json.loads(pathlib.Path(report_file).read_text())
    truth = json.loads((company / "truth/summary.json").read_text())

    def rows(table: str) -> int:
        return ds.dataset(company / "parquet" / table, format="parquet", partitioning="hive").count_rows()

    def counted(list_of: str) -> dict:
        return {entry["name"]: entry["count"] for entry in report[list_of]}

    wrong = [
        f"{what}: reported {found}, expected {expected}"
        for what, found, expected in (
            ("pulled", report["run"]["pulled"], truth["records"]),
            ("messages", report["messages"], truth["messages"]),
            ("messages before FINAL", report["messages_before_final"], truth["messages"]),
            ("violations", report["violations"], truth["violations"]),
            ("violations before FINAL", report["violations_before_final"], truth["violations"]),
            ("dead letters", report["dead_letters"], truth["dead_letters"]),
            ("duplicates", report["run"]["duplicates"], truth["duplicates"]),
            ("reasons", counted("reasons"), truth["by_reason"]),
            ("messages in Parquet", rows("messages"), truth["messages"]),
            ("violations in Parquet", rows("violations"), truth["violations"]),
        )
        if found != expected
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"the demo's counts match the truth: {truth['messages']} messages, {truth['violations']} violations")


main(*sys.argv[1:])

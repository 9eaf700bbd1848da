"""Prints the rows of a folder of Parquet files as read by pyarrow, one JSON object per line.

usage: parquet_rows.py FOLDER messages|violations

The columns are those that the end-to-end tests compare with the truth; `corp_id` and `dt` come from
the path. Fails if a file cannot be read or contains a column that is also in its path.
"""

import hashlib
import json
import os
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

COLUMNS = {
    "messages": (
        "corp_id dt seq msgid action msgtype msgtime conversation_id conversation_kind room_id "
        "from_id from_kind from_name from_department_id to_ids content key_version payload"
    ),
    "violations": (
        "corp_id dt msgid seq msgtime conversation_id from_id rule_id severity matched spans"
    ),
}


def main(folder: str, table: str) -> None:
    if not os.path.isdir(folder):
        return  # A table without rows has no folder. The caller compares with the rows it expects.
    path = ds.partitioning(pa.schema([("corp_id", pa.string()), ("dt", pa.string())]), flavor="hive")
    files = ds.dataset(folder, format="parquet", partitioning=path)
    for file in files.files:
        inside = ds.dataset(file, format="parquet").schema.names
        if twice := {"corp_id", "dt"} & set(inside):
            sys.exit(f"{file} contains {sorted(twice)}, which are in its path")
    for batch in files.to_batches(columns=COLUMNS[table].split()):
        columns = {name: batch.column(name) for name in batch.schema.names}
        columns["msgtime"] = pc.cast(columns["msgtime"], pa.int64())
        names = list(columns)
        for values in zip(*(column.to_pylist() for column in columns.values())):
            row = dict(zip(names, values))
            if table == "messages":
                payload = row.pop("payload").encode()
                row["payload_bytes"] = len(payload)
                row["payload_sha256"] = hashlib.sha256(payload).hexdigest()
            else:
                row["spans"] = [[span["start"], span["end"]] for span in row["spans"]]
            print(json.dumps(row, ensure_ascii=False))


main(*sys.argv[1:])

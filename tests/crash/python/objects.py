"""Prints path, number of rows and digest of each Parquet file of a folder, one JSON object per line.

usage: objects.py FOLDER

`path` is relative to the folder. `digest` covers the rows in order and every column except those that
depend on when the program ran: `detected_at`, and `room_name`, which is known once the room has been
requested. Fails if a file cannot be read.
"""

import hashlib
import json
import pathlib
import sys

import pyarrow.parquet as pq

TIME_DEPENDENT = {"detected_at", "room_name"}


def main(folder: str) -> None:
    root = pathlib.Path(folder)
    for path in sorted(root.rglob("*.parquet")):
        parts = path.relative_to(root).parts
        if any(part.startswith((".", "_")) for part in parts):
            continue
        table = pq.ParquetFile(path).read()
        table = table.select([name for name in table.column_names if name not in TIME_DEPENDENT])
        rows = "\n".join(json.dumps(row, default=str) for row in table.to_pylist())
        digest = hashlib.sha256(rows.encode()).hexdigest()
        print(json.dumps({"path": "/".join(parts), "rows": table.num_rows, "digest": digest}))


main(*sys.argv[1:])

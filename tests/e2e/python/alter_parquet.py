"""Tampers with one row of a Parquet file: writes a valid file and keeps the metadata.

Arguments: the file, and `change`, `drop` or `add`. Prints the row's seq.
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

path, how = sys.argv[1:]
table = pq.read_table(path, partitioning=None)
rows = table.to_pylist()
row = len(rows) // 2
if how == "add":
    # The simulator gives each record a block of three positions, so no record lies between two that are two apart.
    gaps = [i for i in range(len(rows) - 1) if rows[i + 1]["seq"] - rows[i]["seq"] == 2]
    row = min(gaps, key=lambda i: abs(i - row))
seq = rows[row]["seq"]
if how == "change":
    rows[row]["content"] = (rows[row]["content"] or "") + "。"
elif how == "drop":
    del rows[row]
elif how == "add":
    seq += 1
    rows.insert(row + 1, {**rows[row], "seq": seq, "msgid": rows[row]["msgid"] + "x"})
else:
    sys.exit(f"unknown: {how}")
pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, compression="zstd")
print(seq)

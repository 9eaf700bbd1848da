"""Checks that clickhouse-connect works with the embedded server as with a real one.

usage: check_clickhouse_connect.py PORT   (tests/clickhouse-connect starts a server and runs it)
"""

import datetime
import sys

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

UTC = datetime.timezone.utc
COLUMNS = ["id", "at", "tags", "kind", "spans", "note"]
TABLE = """CREATE TABLE default.cc (id UInt64, at DateTime64(3, 'UTC'), tags Array(String),
    kind LowCardinality(String), spans Array(Tuple(UInt32, UInt32)), note Nullable(String))
    ENGINE = MergeTree ORDER BY id"""


def row(number):
    at = datetime.datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC) + datetime.timedelta(seconds=number)
    note = None if number % 2 else "中文 'quoted'"
    return [number, at, ["a", str(number)], f"kind {number % 3}", [(1, number)], note]


def main(port):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=port, tz_source="server", tz_mode="aware")
    assert client.server_version.split(".")[0] == "26", client.server_version
    client.command("DROP TABLE IF EXISTS default.cc")
    client.command(TABLE)

    rows = [row(number) for number in range(10_000)]
    assert client.insert("default.cc", rows, column_names=COLUMNS).written_rows == len(rows)
    read = client.query("SELECT * FROM default.cc ORDER BY id").result_rows
    assert [list(each) for each in read] == rows, read[:2]
    assert client.query("SELECT * FROM default.cc WHERE 0").result_rows == []

    bound = client.query(
        "SELECT count() FROM default.cc WHERE kind = {kind:String} AND id < {limit:UInt64}",
        parameters={"kind": "kind 1", "limit": 300},
    )
    assert bound.result_rows == [(100,)], bound.result_rows

    own = "SELECT getSetting('max_block_size')"
    before = client.query(own).result_rows
    assert client.query(own, settings={"max_block_size": 99}).result_rows == [(99,)]
    assert client.query(own).result_rows == before, "a setting outlived its query"

    client.command("CREATE TEMPORARY TABLE mine (a UInt8)")
    client.command("INSERT INTO mine VALUES (7)")
    assert client.command("SELECT a FROM mine") == 7, "the session lost its temporary table"

    try:
        client.query("SELECT * FROM nowhere")
    except DatabaseError as error:
        assert "UNKNOWN_TABLE" in str(error), error
    else:
        raise AssertionError("an unknown table gave no error")

    with client.query_rows_stream("SELECT number FROM numbers(500000)") as stream:
        assert sum(1 for _ in stream) == 500_000
    assert client.raw_query("SELECT 1 AS a FORMAT JSONEachRow") == b'{"a":1}\n'

    for compression in ["lz4", "zstd", "gzip", False]:
        packed = clickhouse_connect.get_client(host="127.0.0.1", port=port, compress=compression)
        assert packed.insert("default.cc", rows[:50], column_names=COLUMNS).written_rows == 50, compression
    assert client.command("SELECT count() FROM default.cc") == 10_200
    print(f"clickhouse-connect {clickhouse_connect.__version__}: ok")


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Reads chatledger's tables with clickhouse-connect and prints one JSON object.

usage: clickhouse_tables.py http://HOST:PORT DATABASE
"""

import json
import sys
from urllib.parse import urlsplit

import clickhouse_connect


def main(url: str, database: str) -> None:
    address = urlsplit(url)
    client = clickhouse_connect.get_client(host=address.hostname, port=address.port, database=database)

    def count(table: str) -> int:
        return client.query(f"SELECT count() FROM {table} FINAL").result_rows[0][0]

    by_type = client.query("SELECT msgtype, count() FROM messages GROUP BY msgtype")
    first = client.query(
        "SELECT msgid, seq, msgtime, content, to_ids FROM messages WHERE seq = "
        "(SELECT min(seq) FROM messages WHERE msgtype = {type:String})",
        parameters={"type": "text"},
    ).first_row
    violation = client.query(
        "SELECT msgid, rule_id, matched, spans FROM violations ORDER BY msgid, rule_id LIMIT 1"
    ).first_row
    print(
        json.dumps(
            {
                "messages": count("messages"),
                "violations": count("violations"),
                "dead_letters": count("dead_letters"),
                "by_type": dict(by_type.result_rows),
                "first": {
                    "msgid": first[0],
                    "seq": first[1],
                    "msgtime": round(first[2].timestamp() * 1000),
                    "content": first[3],
                    "to_ids": list(first[4]),
                },
                "violation": {
                    "msgid": violation[0],
                    "rule_id": violation[1],
                    "matched": list(violation[2]),
                    "spans": [list(span) for span in violation[3]],
                },
            },
            ensure_ascii=False,
        )
    )


main(*sys.argv[1:])

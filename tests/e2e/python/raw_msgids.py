"""Prints the keys of all committed records of a topic as one JSON array, read with confluent-kafka.

usage: raw_msgids.py BROKERS TOPIC
"""

import json
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition


def main(brokers: str, topic: str) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "raw-msgids",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    rest = set(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in rest])
    keys = []
    deadline = time.monotonic() + 60
    while rest:
        if time.monotonic() > deadline:
            sys.exit(f"partitions {sorted(rest)} of {topic} were not read completely")
        message = consumer.poll(0.2)
        if message is None:
            continue
        if (error := message.error()) is None:
            keys.append(message.key().decode())
        elif error.code() == KafkaError._PARTITION_EOF:
            rest.discard(message.partition())
        else:
            sys.exit(str(error))
    consumer.close()
    print(json.dumps(keys))


main(*sys.argv[1:])

"""Changes the time of the last response of every archive: reads the compacted cursor topic to its end and writes each
corp's cursor again with another time. Arguments: broker, topic, milliseconds since the epoch."""

import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

broker, topic, at = sys.argv[1:]
consumer = Consumer(
    {
        "bootstrap.servers": broker,
        "group.id": "age-cursor",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    }
)
consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
cursors = {}
while True:
    message = consumer.poll(30)
    if message is None:
        sys.exit("the broker does not respond")
    if message.error():
        if message.error().code() == KafkaError._PARTITION_EOF:
            break
        sys.exit(str(message.error()))
    value = json.loads(message.value())
    if "answered_at" in value:
        cursors[message.key()] = (value, message.headers())
consumer.close()
producer = Producer({"bootstrap.servers": broker})
for key, (value, headers) in cursors.items():
    producer.produce(topic, json.dumps({**value, "answered_at": int(at)}), key, headers=headers)
producer.flush(30)
print(len(cursors))

"""Checks deploy/local/kafka against the broker it starts.

Run with the Python of `deploy/local/tools/install python-checks`; takes under a minute once the broker is in the cache.
Everything happens in a temporary directory and on ports that were free; no broker is left when it ends.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "kafka"
SECONDS = 180


def kafka(*arguments, **options):
    """Runs the script to its end, which is also the end of every pipe it was given."""
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=SECONDS, **options)


def is_alive(pid):
    """Whether the process runs; one that has ended and that nobody has reaped does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {SECONDS} s: {what}")
        time.sleep(0.02)


class Broker(unittest.TestCase):
    def setUp(self):
        base = tempfile.TemporaryDirectory()
        self.addCleanup(base.cleanup)
        self.data = pathlib.Path(base.name) / "a data directory"
        self.addCleanup(kafka, "stop", "--data-dir", self.data)

    def pid(self):
        return int((self.data / "pid").read_text().split()[0])

    def start(self, *arguments, **options):
        started = kafka("start", "--data-dir", self.data, *arguments, **options)
        self.assertEqual(started.returncode, 0, started.stderr)
        self.assertRegex(started.stdout, r"\A127\.0\.0\.1:\d+\n\Z", "stdout is the address and nothing else")
        return started.stdout.strip()

    def test_a_life_with_a_sudden_death(self):
        address = self.start("--port", "0")
        pid = self.pid()
        again = kafka("start", "--data-dir", self.data)
        self.assertEqual((again.returncode, again.stdout.strip(), self.pid()), (0, address, pid))
        self.assertIn("already running", again.stderr)
        self.assertEqual(kafka("status", "--data-dir", self.data).returncode, 0)
        self.assertEqual(self.topics(address), [], "the readiness probe leaves no topic")

        self.write(address)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the broker is dead")
        status = kafka("status", "--data-dir", self.data)
        self.assertEqual(status.returncode, 1)
        self.assertIn("stopped", status.stdout)

        self.assertEqual(self.start("--port", "0"), address, "clients find it where it was")
        self.assertNotEqual(self.pid(), pid)
        self.assertEqual(self.read(address), ([f"{n}" for n in range(500)], (500, "cut")))

        pid = self.pid()
        stopped = kafka("stop", "--data-dir", self.data)
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        self.assertFalse(is_alive(pid))
        with socket.socket() as one:
            self.assertNotEqual(one.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))), 0)
        self.assertEqual(kafka("stop", "--data-dir", self.data).returncode, 0, "nothing running is a success")

        self.start("--fresh")
        self.assertEqual(self.topics(address), [])

    def topics(self, address):
        listed = AdminClient({"bootstrap.servers": address}).list_topics(timeout=SECONDS).topics
        return sorted(name for name in listed if name not in ("__consumer_offsets", "__transaction_state"))

    def write(self, address):
        """500 records in a committed transaction with a consumer's offset and its metadata, then 500 in an aborted one."""
        admin = AdminClient({"bootstrap.servers": address})
        for made in admin.create_topics([NewTopic("t", 1, 1)]).values():
            made.result(SECONDS)
        producer = Producer({"bootstrap.servers": address, "transactional.id": "check"})
        producer.init_transactions(SECONDS)
        consumer = self.consumer(address)
        for end in (producer.commit_transaction, producer.abort_transaction):
            producer.begin_transaction()
            for n in range(500):
                producer.produce("t", value=f"{n}")
            offset = TopicPartition("t", 0, 500, metadata="cut")
            producer.send_offsets_to_transaction([offset], consumer.consumer_group_metadata(), SECONDS)
            end(SECONDS)
        consumer.close()
        # Begins only when the markers are written: a broker that is killed before may lose them as it comes back.
        Producer({"bootstrap.servers": address, "transactional.id": "check"}).init_transactions(SECONDS)

    def consumer(self, address):
        return Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "check",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )

    def read(self, address):
        consumer = self.consumer(address)
        consumer.assign([TopicPartition("t", 0, 0)])
        values = []
        while True:
            record = consumer.poll(SECONDS)
            self.assertIsNotNone(record, "the end of the topic is reached")
            if record.error():
                if record.error().code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(record.error())
                break
            values.append(record.value().decode())
        (committed,) = consumer.committed([TopicPartition("t", 0)], SECONDS)
        consumer.close()
        return values, (committed.offset, committed.metadata)

    def test_starts_at_once_make_one_broker_that_holds_no_pipe(self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        command = [SCRIPT, "start", "--data-dir", self.data, "--port", "0"]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        starts = [subprocess.Popen(command, pass_fds=[writing], **quiet) for _ in range(3)]
        os.close(writing)
        addresses = {start.communicate(timeout=SECONDS)[0] for start in starts}
        self.assertEqual([start.returncode for start in starts], [0, 0, 0])
        self.assertEqual(len(addresses), 1)
        os.set_blocking(reading, False)
        self.assertEqual(os.read(reading, 1), b"", "the pipe ends with the scripts, not with the broker")

    def test_starts_at_once_agree_on_a_new_directory(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for round in range(8):
                data = self.data / str(round)
                command = [SCRIPT, "start", "--data-dir", data, "--port", port]
                starts = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(5)]
                for start in starts:
                    self.assertIn(f"port {port}", start.communicate(timeout=SECONDS)[1])

    def test_a_taken_port_is_named(self):
        with socket.create_server(("127.0.0.1", 0), backlog=0) as taken:
            port = str(taken.getsockname()[1])
            # The listener never accepts and its queue is full, so that a further connection would wait for minutes.
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                self.addCleanup(one.close)
                one.setblocking(False)
                one.connect_ex(taken.getsockname())
            began = time.monotonic()
            refused = kafka("start", "--data-dir", self.data, "--port", port)
        self.assertLess(time.monotonic() - began, 60, "a full queue does not hold the script up")
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"port {port} on 127.0.0.1 is taken", refused.stderr)
        self.assertFalse((self.data / "pid").exists())

    def test_a_start_that_is_not_ready_in_time_or_is_interrupted_leaves_nothing(self):
        late = kafka("start", "--data-dir", self.data, "--port", "0", "--timeout", "1")
        self.assertEqual(late.returncode, 1)
        self.assertIn("within 1 s", late.stderr)
        self.assertFalse((self.data / "pid").exists())

        start = subprocess.Popen(
            [SCRIPT, "start", "--data-dir", self.data, "--port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until((self.data / "pid").exists, "the broker's process exists")
        pid = self.pid()
        start.terminate()
        self.assertEqual(start.wait(SECONDS), 128 + signal.SIGTERM)
        self.assertFalse(is_alive(pid))

    def test_stop_leaves_another_process_with_the_same_pid_alone(self):
        self.data.mkdir()
        (self.data / ".chatledger-kafka").touch()
        with subprocess.Popen(["sleep", str(SECONDS)]) as stranger:
            boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            (self.data / "pid").write_text(f"{stranger.pid} {boot} 1\n")
            stopped = kafka("stop", "--data-dir", self.data)
            self.assertEqual(stopped.returncode, 0, stopped.stderr)
            self.assertTrue(is_alive(stranger.pid))
            stranger.kill()

    def test_a_directory_with_something_else_in_it_is_refused(self):
        self.data.mkdir()
        (self.data / "mine").write_text("keep me")
        refused = kafka("start", "--data-dir", self.data, "--fresh")
        self.assertEqual(refused.returncode, 1)
        self.assertEqual([file.name for file in self.data.iterdir()], ["mine"])

    def test_wrong_usage_differs_from_failure(self):
        for arguments in (["start", "--port", "65536"], ["start", "--port"], ["start", "--prot", "1"], ["begin"], []):
            with self.subTest(arguments):
                self.assertEqual(kafka(*arguments).returncode, 2)
        self.assertEqual(kafka("--help").returncode, 0)


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))

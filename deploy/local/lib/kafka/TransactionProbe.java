import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Says whether a broker can do what chatledger needs of it: carries one transaction through and reads it back.
 *
 * <p>{@code TransactionProbe <bootstrap> <seconds>} exits 0 once a record sent in a transaction has been committed
 * and read with {@code read_committed}; 1 when that did not happen in time, with the last reason on stderr. An open
 * port says much less: the transaction coordinator is elected after it, and its topic is created by the first use.
 *
 * <p>Leaves no topic behind. One transactional id serves all probes, so the coordinator's log does not grow with them.
 */
public final class TransactionProbe {
    private static final String NAME = "__chatledger_ready_probe";
    /** How long one attempt may hang in a client call before the next is made. */
    private static final int ATTEMPT_MS = 10_000;

    /** Why the newest attempt failed, for whoever waits. */
    private static volatile String lastFailure = "the broker has not answered";

    private TransactionProbe() {}

    public static void main(String[] args) throws InterruptedException {
        if (args.length != 2) {
            System.err.println("usage: TransactionProbe <bootstrap> <seconds>");
            System.exit(2);
        }
        long seconds = Long.parseLong(args[1]);
        long deadline = System.nanoTime() + Duration.ofSeconds(seconds).toNanos();
        Thread watchdog = new Thread(() -> giveUpAfter(seconds), "watchdog");
        watchdog.setDaemon(true);
        watchdog.start();
        while (true) {
            try {
                probe(args[0], deadline);
                System.exit(0);
            } catch (ExecutionException e) {
                lastFailure = e.getCause().toString();
            } catch (KafkaException | IllegalStateException e) {
                lastFailure = e.toString();
            }
            Thread.sleep(100);
        }
    }

    /** Ends the process when the time is over, whatever client call it hangs in. */
    private static void giveUpAfter(long seconds) {
        try {
            Thread.sleep(Duration.ofSeconds(seconds).toMillis());
        } catch (InterruptedException e) {
            // Nobody interrupts this thread; giving up early would still be the safe answer.
        }
        System.err.println(lastFailure);
        Runtime.getRuntime().halt(1);
    }

    private static void probe(String bootstrap, long deadline) throws ExecutionException, InterruptedException {
        try (Admin admin = Admin.create(clientProperties(bootstrap))) {
            create(admin);
            String value = UUID.randomUUID().toString();
            long offset = produce(bootstrap, value);
            consume(bootstrap, offset, value, deadline);
            delete(admin);
        }
    }

    private static void create(Admin admin) throws ExecutionException, InterruptedException {
        try {
            admin.createTopics(List.of(new NewTopic(NAME, 1, (short) 1))).all().get();
        } catch (ExecutionException e) {
            // Left by a probe that was cut short.
            if (!(e.getCause() instanceof TopicExistsException)) {
                throw e;
            }
        }
    }

    private static void delete(Admin admin) throws ExecutionException, InterruptedException {
        try {
            admin.deleteTopics(List.of(NAME)).all().get();
        } catch (ExecutionException e) {
            if (!(e.getCause() instanceof UnknownTopicOrPartitionException)) {
                throw e;
            }
        }
    }

    private static long produce(String bootstrap, String value) throws ExecutionException, InterruptedException {
        Properties properties = clientProperties(bootstrap);
        properties.put("transactional.id", NAME);
        properties.put("key.serializer", StringSerializer.class.getName());
        properties.put("value.serializer", StringSerializer.class.getName());
        properties.put("max.block.ms", ATTEMPT_MS);
        properties.put("delivery.timeout.ms", ATTEMPT_MS);
        properties.put("linger.ms", 0);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties)) {
            producer.initTransactions();
            producer.beginTransaction();
            long offset = producer.send(new ProducerRecord<>(NAME, 0, null, value)).get().offset();
            producer.commitTransaction();
            return offset;
        }
    }

    private static void consume(String bootstrap, long offset, String value, long deadline) {
        Properties properties = clientProperties(bootstrap);
        properties.put("isolation.level", "read_committed");
        properties.put("enable.auto.commit", false);
        properties.put("key.deserializer", StringDeserializer.class.getName());
        properties.put("value.deserializer", StringDeserializer.class.getName());
        TopicPartition partition = new TopicPartition(NAME, 0);
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(properties)) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, offset);
            do {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    if (record.value().equals(value)) {
                        return;
                    }
                }
            } while (System.nanoTime() < deadline);
        }
        throw new IllegalStateException("the committed record could not be read back");
    }

    private static Properties clientProperties(String bootstrap) {
        Properties properties = new Properties();
        properties.putAll(Map.of(
                "bootstrap.servers", bootstrap,
                "request.timeout.ms", ATTEMPT_MS - 1,
                "default.api.timeout.ms", ATTEMPT_MS,
                "reconnect.backoff.ms", 50,
                "reconnect.backoff.max.ms", 250,
                "retry.backoff.ms", 50));
        return properties;
    }
}

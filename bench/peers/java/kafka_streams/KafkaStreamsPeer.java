import com.fasterxml.jackson.databind.JsonNode;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/**
 * Kafka Streams as its documentation shows it: a processor with a persistent store by customer, whose changes Kafka
 * keeps; a score per event. What changed is written to Redis every 50 ms in one pipeline. One thread.
 */
public final class KafkaStreamsPeer implements Processor<byte[], byte[], byte[], byte[]> {

  private ProcessorContext<byte[], byte[]> context;
  private KeyValueStore<byte[], byte[]> store;
  private final Jedis redis = new Jedis(URI.create(System.getenv("REDIS")));
  private final Map<String, long[]> changed = new HashMap<>();

  @Override
  public void init(ProcessorContext<byte[], byte[]> context) {
    this.context = context;
    store = context.getStateStore("customers");
    context.schedule(Duration.ofMillis(50), PunctuationType.WALL_CLOCK_TIME, at -> flush());
  }

  @Override
  public void process(Record<byte[], byte[]> record) {
    String topic = context.recordMetadata().orElseThrow().topic();
    JsonNode event = Job.parse(topic, record.value());
    if (event == null) { context.forward(record, "dead-letters"); return; }
    String customer = event.get("customer_id").textValue();
    byte[] key = customer.getBytes(StandardCharsets.UTF_8);
    long[] sums = Job.fold(unpack(store.get(key)), topic, event);
    store.put(key, pack(sums));
    changed.put(customer, sums);
    context.forward(new Record<>(key, Job.score(customer, sums), record.timestamp()), "scores");
  }

  private void flush() {
    if (changed.isEmpty()) return;
    Pipeline pipeline = redis.pipelined();
    changed.forEach((customer, sums) -> pipeline.hset("customer:" + customer, Job.fields(sums)));
    pipeline.sync();
    changed.clear();
  }

  static byte[] pack(long[] sums) {
    ByteBuffer bytes = ByteBuffer.allocate(8 * sums.length);
    for (long sum : sums) bytes.putLong(sum);
    return bytes.array();
  }

  static long[] unpack(byte[] bytes) {
    long[] sums = new long[Job.FIELDS.length];
    if (bytes != null) ByteBuffer.wrap(bytes).asLongBuffer().get(sums);
    return sums;
  }

  public static void main(String[] args) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer");
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BROKER"));
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    for (String name : List.of("default.key.serde", "default.value.serde"))
      settings.put(name, Serdes.ByteArraySerde.class);
    Topology topology = new Topology()
        .addSource("in", "orders", "interactions", "feedback")
        .addProcessor("value", KafkaStreamsPeer::new, "in")
        .addStateStore(Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore("customers"), Serdes.ByteArray(), Serdes.ByteArray()), "value")
        .addSink("scores", "scores", "value")
        .addSink("dead-letters", "dead-letters", "value");
    KafkaStreams streams = new KafkaStreams(topology, settings);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }
}

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
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
  static final ObjectMapper JSON = new ObjectMapper();
  static final String[] FIELDS = {"version", "orders", "revenue", "refunds", "cost", "last_order_at"};
  static final Set<String> ORDERS = Set.of("placed", "returned", "cancelled");
  static final Set<String> ASKED = Set.of("csat", "nps", "ces", "rating", "complaint");

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
    JsonNode event = parse(topic, record.value());
    if (event == null) { context.forward(record, "dead-letters"); return; }
    String customer = event.get("customer_id").textValue();
    byte[] key = customer.getBytes(StandardCharsets.UTF_8);
    long[] sums = fold(unpack(store.get(key)), topic, event);
    store.put(key, pack(sums));
    changed.put(customer, sums);
    var score = JSON.createObjectNode().put("customer_id", customer);
    for (int i = 0; i < FIELDS.length; i++) score.put(FIELDS[i], sums[i]);
    byte[] message = score.toString().getBytes(StandardCharsets.UTF_8);
    context.forward(new Record<>(key, message, record.timestamp()), "scores");
  }

  private void flush() {
    if (changed.isEmpty()) return;
    Pipeline pipeline = redis.pipelined();
    changed.forEach((customer, sums) -> {
      Map<String, String> fields = new HashMap<>();
      for (int i = 0; i < FIELDS.length; i++) fields.put(FIELDS[i], Long.toString(sums[i]));
      pipeline.hset("customer:" + customer, fields);
    });
    pipeline.sync();
    changed.clear();
  }

  /** Gives the event, null for a bad one. */
  static JsonNode parse(String topic, byte[] value) {
    try {
      JsonNode event = JSON.readTree(value);
      boolean good = event != null && id(event, "event_id") && id(event, "customer_id")
          && event.path("occurred_at").isNumber();
      String kind = good ? event.path("kind").asText() : "";
      good = good && switch (topic) {
        case "orders" -> ORDERS.contains(kind) && id(event, "order_id") && amount(event.path("amount"))
            && event.path("currency").asText().matches("[A-Z]{3}");
        case "interactions" -> id(event, "kind") && (!event.has("cost") || amount(event.get("cost")));
        default -> ASKED.contains(kind) && event.path("score").isNumber() && event.path("scale").size() == 2;
      };
      return good ? event : null;
    } catch (java.io.IOException error) { return null; }
  }

  static boolean id(JsonNode event, String name) {
    JsonNode at = event.path(name);
    return at.isTextual() && !at.textValue().isEmpty() && at.textValue().length() <= 128;
  }

  static boolean amount(JsonNode at) {
    return at.isNumber() && at.doubleValue() >= 0 && at.doubleValue() <= 1e12;
  }

  static long[] fold(long[] sums, String topic, JsonNode event) {
    sums[0]++;
    if (topic.equals("orders")) {
      long cents = Math.round(event.get("amount").doubleValue() * 100);
      if (event.get("kind").textValue().equals("placed")) {
        sums[1]++;
        sums[2] += cents;
        sums[5] = Math.max(sums[5], Math.round(event.get("occurred_at").doubleValue() * 1000));
      } else if (event.get("kind").textValue().equals("returned")) {
        sums[3] += cents;
      }
    } else if (topic.equals("interactions")) {
      sums[4] += Math.round(event.path("cost").asDouble(0) * 100);
    }
    return sums;
  }

  static byte[] pack(long[] sums) {
    ByteBuffer bytes = ByteBuffer.allocate(8 * sums.length);
    for (long sum : sums) bytes.putLong(sum);
    return bytes.array();
  }

  static long[] unpack(byte[] bytes) {
    long[] sums = new long[FIELDS.length];
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

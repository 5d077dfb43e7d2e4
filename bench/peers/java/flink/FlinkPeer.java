import com.fasterxml.jackson.databind.JsonNode;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.Pipeline;

/**
 * Flink as its documentation shows it: a keyed process function with a value state by customer, checkpoints every
 * second, a score per event, all in one process with a parallelism of one. What changed is written to Redis every 50 ms.
 */
public final class FlinkPeer {
  static final TypeInformation<Tuple2<byte[], byte[]>> BYTES =
      Types.TUPLE(Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE));
  static final TypeInformation<Tuple2<String, long[]>> SUMS =
      Types.TUPLE(Types.STRING, Types.PRIMITIVE_ARRAY(Types.LONG));
  static final OutputTag<Tuple2<byte[], byte[]>> BAD = new OutputTag<>("bad", BYTES);

  static final class Read implements KafkaRecordDeserializationSchema<Tuple3<String, byte[], byte[]>> {
    @Override
    public void deserialize(
        ConsumerRecord<byte[], byte[]> record, Collector<Tuple3<String, byte[], byte[]>> out) {
      out.collect(Tuple3.of(record.topic(), record.key(), record.value()));
    }

    @Override
    public TypeInformation<Tuple3<String, byte[], byte[]>> getProducedType() {
      return Types.TUPLE(Types.STRING, Types.PRIMITIVE_ARRAY(Types.BYTE), Types.PRIMITIVE_ARRAY(Types.BYTE));
    }
  }

  static final class Parse extends ProcessFunction<Tuple3<String, byte[], byte[]>, Tuple2<String, long[]>> {
    @Override
    public void processElement(
        Tuple3<String, byte[], byte[]> record, Context context, Collector<Tuple2<String, long[]>> out) {
      JsonNode event = Job.parse(record.f0, record.f2);
      if (event == null) {
        context.output(BAD, Tuple2.of(record.f1, record.f2));
      } else {
        long[] change = Job.fold(new long[Job.FIELDS.length], record.f0, event);
        out.collect(Tuple2.of(event.get("customer_id").textValue(), change));
      }
    }
  }

  static final class Add extends KeyedProcessFunction<String, Tuple2<String, long[]>, Tuple2<String, long[]>> {
    private transient ValueState<long[]> state;

    @Override
    public void open(OpenContext context) {
      state = getRuntimeContext().getState(new ValueStateDescriptor<>("sums", long[].class));
    }

    @Override
    public void processElement(
        Tuple2<String, long[]> change, Context context, Collector<Tuple2<String, long[]>> out) throws Exception {
      long[] before = state.value();
      long[] sums = change.f1.clone();
      if (before != null) {
        for (int i = 0; i < 5; i++) sums[i] += before[i];
        sums[5] = Math.max(sums[5], before[5]);
      }
      state.update(sums);
      out.collect(Tuple2.of(change.f0, sums));
    }
  }

  static final class RedisSink implements Sink<Tuple2<String, long[]>> {
    @Override
    public SinkWriter<Tuple2<String, long[]>> createWriter(WriterInitContext context) {
      Jedis redis = new Jedis(URI.create(System.getenv("REDIS")));
      Map<String, long[]> changed = new HashMap<>();
      var clock = context.getProcessingTimeService();
      var writer = new SinkWriter<Tuple2<String, long[]>>() {
        @Override public void write(Tuple2<String, long[]> score, Context at) { changed.put(score.f0, score.f1); }
        @Override public void close() { redis.close(); }

        @Override public void flush(boolean end) {
          if (changed.isEmpty()) return;
          Pipeline pipeline = redis.pipelined();
          changed.forEach((customer, sums) -> pipeline.hset("customer:" + customer, Job.fields(sums)));
          pipeline.sync();
          changed.clear();
        }

        void tick(long at) {
          flush(false);
          clock.registerTimer(clock.getCurrentProcessingTime() + 50, this::tick);
        }
      };
      writer.tick(0);
      return writer;
    }
  }

  static <T> KafkaSink<T> sink(String name, KafkaRecordSerializationSchema<T> schema) {
    return KafkaSink.<T>builder().setBootstrapServers(System.getenv("BROKER"))
        .setTransactionalIdPrefix(name).setRecordSerializer(schema).build();
  }

  public static void main(String[] args) throws Exception {
    var environment = StreamExecutionEnvironment.getExecutionEnvironment();
    environment.setParallelism(1);
    environment.enableCheckpointing(1_000);
    var source = KafkaSource.<Tuple3<String, byte[], byte[]>>builder()
        .setBootstrapServers(System.getenv("BROKER")).setGroupId("peer")
        .setTopics("orders", "interactions", "feedback")
        .setStartingOffsets(OffsetsInitializer.earliest()).setDeserializer(new Read()).build();
    var parsed = environment.fromSource(source, WatermarkStrategy.noWatermarks(), "events").process(new Parse());
    parsed.getSideOutput(BAD).sinkTo(sink("letters", (letter, context, at) ->
        new ProducerRecord<>("dead-letters", letter.f0, letter.f1)));
    var scores = parsed.returns(SUMS).keyBy(change -> change.f0).process(new Add()).returns(SUMS);
    scores.sinkTo(new RedisSink());
    scores.sinkTo(sink("scores", (score, context, at) -> new ProducerRecord<>(
        "scores", score.f0.getBytes(StandardCharsets.UTF_8), Job.score(score.f0, score.f1))));
    environment.execute("value");
  }
}

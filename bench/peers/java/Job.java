import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** The job that the peers in Java do, as far as it has nothing to do with the peer. */
final class Job {
  static final ObjectMapper JSON = new ObjectMapper();
  static final String[] FIELDS = {"version", "orders", "revenue", "refunds", "cost", "last_order_at"};
  static final Set<String> ORDERS = Set.of("placed", "returned", "cancelled");
  static final Set<String> ASKED = Set.of("csat", "nps", "ces", "rating", "complaint");

  private Job() {}

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

  /** Gives the message for the scores. */
  static byte[] score(String customer, long[] sums) {
    var score = JSON.createObjectNode().put("customer_id", customer);
    for (int i = 0; i < FIELDS.length; i++) score.put(FIELDS[i], sums[i]);
    return score.toString().getBytes(StandardCharsets.UTF_8);
  }

  /** Gives the fields of the customer's hash in Redis. */
  static Map<String, String> fields(long[] sums) {
    Map<String, String> fields = new HashMap<>();
    for (int i = 0; i < FIELDS.length; i++) fields.put(FIELDS[i], Long.toString(sums[i]));
    return fields;
  }
}

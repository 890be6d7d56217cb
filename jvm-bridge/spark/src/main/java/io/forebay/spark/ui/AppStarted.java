package io.forebay.spark.ui;

import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.scheduler.SparkListenerEvent;

/** Posted once, before the first shuffle. In the event log, as {@link TrafficReported}. */
public final class AppStarted implements SparkListenerEvent {
    /** Why the application uses Spark's own shuffle; empty if it uses Forebay. */
    public String fallback = "";

    /** What the servers call the application; empty if it does not use Forebay. */
    public String app = "";

    /** The settings in force by the names that people set, in the order of the table of keys. No secret is among them. */
    public Map<String, String> settings = new LinkedHashMap<>();
}

package io.forebay.spark.ui;

import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.scheduler.SparkListenerEvent;

/** Posted once, before the first shuffle. In the event log, as {@link TrafficReported}. */
public final class AppStarted implements SparkListenerEvent {
    /** Why the application uses Spark's own shuffle; empty if it uses Forebay. */
    public String fallback = "";

    /** The application's id on the servers; empty if Forebay is not used. */
    public String app = "";

    /**
     * The settings in force, by key, in the order of the table of keys. Without secrets.
     */
    public Map<String, String> settings = new LinkedHashMap<>();
}

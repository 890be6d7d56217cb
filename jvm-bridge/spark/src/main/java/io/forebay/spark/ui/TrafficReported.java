package io.forebay.spark.ui;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.scheduler.SparkListenerEvent;

/**
 * Sum of tasks' reports since the last such event. Spark writes the event into the event log under
 * this class's name, and flushes the log each time; so the event is not posted per task.
 */
public final class TrafficReported implements SparkListenerEvent {
    /** One entry per shuffle and direction. */
    public List<ShuffleTraffic> traffic = new ArrayList<>();
}

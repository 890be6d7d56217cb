package io.forebay.spark.ui;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.scheduler.SparkListenerEvent;

/**
 * What tasks have told since the last such event, added up. Spark writes it into the event log under the name of this class, and flushes
 * the log each time; so it is not posted for each task.
 */
public final class TrafficReported implements SparkListenerEvent {
    /** One entry per shuffle and direction. */
    public List<ShuffleTraffic> traffic = new ArrayList<>();
}

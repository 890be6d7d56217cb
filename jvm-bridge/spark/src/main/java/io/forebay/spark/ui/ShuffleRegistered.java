package io.forebay.spark.ui;

import org.apache.spark.scheduler.SparkListenerEvent;

/** Posted when a shuffle is registered. In the event log, as {@link TrafficReported}. */
public final class ShuffleRegistered implements SparkListenerEvent {
    public int shuffle;
    public int maps;
    public int partitions;

    /** Candidate servers of its maps. */
    public int candidates;

    /** The level that is reached before a map task succeeds. */
    public String durability = "";
}

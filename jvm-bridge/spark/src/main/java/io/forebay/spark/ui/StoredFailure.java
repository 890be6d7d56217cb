package io.forebay.spark.ui;

import org.apache.spark.util.kvstore.KVIndex;

/** A fetch failure as the tab shows it. */
public final class StoredFailure {
    /** Counts from 1. */
    @KVIndex public long number;

    public long time;
    public int stage;
    public int stageAttempt;
    public long task;
    public int shuffle;
    public int map;
    public int partition;
    public String volume = "";

    /** Server of the volume when the output was taken; empty if unknown. */
    public String address = "";

    public String reason = "";
}

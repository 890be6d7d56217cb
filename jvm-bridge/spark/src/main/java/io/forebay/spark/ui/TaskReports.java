package io.forebay.spark.ui;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Consumer;
import org.apache.spark.util.AccumulatorV2;

/**
 * Brings what tasks tell to the driver, with their results: of tasks that succeed, fail or are killed, but not of those that end with a
 * fetch failure, for Spark has no room in that answer. It has no name, or it would show in the tables of every stage.
 *
 * <p>A list that is replaced, never changed: Spark serialises it on other threads than the task's.
 */
public final class TaskReports extends AccumulatorV2<ShuffleTraffic, List<ShuffleTraffic>> {
    private static final long serialVersionUID = 1L;

    private volatile List<ShuffleTraffic> reports = Collections.emptyList();

    /** On the driver: where they go. Nothing is kept there. */
    private final transient Consumer<ShuffleTraffic> sink;

    TaskReports(Consumer<ShuffleTraffic> sink) {
        this.sink = sink;
    }

    @Override
    public synchronized void add(ShuffleTraffic report) {
        List<ShuffleTraffic> more = new ArrayList<>(reports);
        more.add(report);
        reports = more;
    }

    @Override
    public void merge(AccumulatorV2<ShuffleTraffic, List<ShuffleTraffic>> other) {
        other.value().forEach(sink == null ? this::add : sink);
    }

    @Override
    public List<ShuffleTraffic> value() {
        return reports;
    }

    @Override
    public boolean isZero() {
        return reports.isEmpty();
    }

    @Override
    public void reset() {
        reports = Collections.emptyList();
    }

    @Override
    public TaskReports copy() {
        TaskReports copy = new TaskReports(null);
        copy.reports = reports;
        return copy;
    }

    /** Tells Spark 4.0 and newer (SPARK-42261) that heartbeats need not carry it. */
    public boolean excludeFromHeartbeat() {
        return true;
    }
}

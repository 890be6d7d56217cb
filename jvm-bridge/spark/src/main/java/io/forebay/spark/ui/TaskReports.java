package io.forebay.spark.ui;

import java.io.IOException;
import java.io.ObjectOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import org.apache.spark.util.AccumulatorV2;

/**
 * Brings tasks' reports to the driver, with their results: of tasks that succeed, fail or are
 * killed, but not of tasks with a fetch failure, which has no room for them. Without a name, or
 * every stage's tables would show it.
 *
 * <p>Spark serialises it on other threads than the task's.
 */
public final class TaskReports extends AccumulatorV2<ShuffleTraffic, List<ShuffleTraffic>> {
    private static final long serialVersionUID = 1L;

    private final ArrayList<ShuffleTraffic> reports = new ArrayList<>(0);

    /** On the driver: where they go. Nothing is kept there. */
    private final transient Consumer<ShuffleTraffic> sink;

    TaskReports(Consumer<ShuffleTraffic> sink) {
        this.sink = sink;
    }

    @Override
    public synchronized void add(ShuffleTraffic report) {
        reports.add(report);
    }

    @Override
    public void merge(AccumulatorV2<ShuffleTraffic, List<ShuffleTraffic>> other) {
        other.value().forEach(sink == null ? this::add : sink);
    }

    @Override
    public synchronized List<ShuffleTraffic> value() {
        return new ArrayList<>(reports);
    }

    @Override
    public synchronized boolean isZero() {
        return reports.isEmpty();
    }

    @Override
    public synchronized void reset() {
        reports.clear();
    }

    @Override
    public TaskReports copy() {
        TaskReports copy = new TaskReports(null);
        copy.reports.addAll(value());
        return copy;
    }

    /** Tells Spark 4.0 and newer (SPARK-42261) to leave the accumulator out of heartbeats. */
    public boolean excludeFromHeartbeat() {
        return true;
    }

    private synchronized void writeObject(ObjectOutputStream out) throws IOException {
        out.defaultWriteObject();
    }
}

package io.forebay.spark.ui;

import com.codahale.metrics.Counter;
import com.codahale.metrics.MetricRegistry;
import java.util.concurrent.TimeUnit;
import org.apache.spark.metrics.source.Source;

/**
 * Metrics for Spark's sinks, named {@code <application>.<executor or driver>.forebay.<name>}: an
 * executor's count its tasks, the driver's the whole application. All are counters. The names are
 * in jvm-bridge/README.md and stay.
 */
public final class ForebaySource implements Source {
    private final MetricRegistry registry = new MetricRegistry();
    private final Counter outputs = registry.counter("write.outputs");
    private final Direction write = new Direction("write");
    private final Counter records = registry.counter("write.records");
    private final Counter inputs = registry.counter("read.inputs");
    private final Direction read = new Direction("read");
    private final Counter fetchFailures = registry.counter("read.fetchFailures");

    private final class Direction {
        final Counter bytes;
        final Counter blocks;
        final Counter waitMillis;
        final Counter repeats;
        final Counter failedTries;

        Direction(String name) {
            bytes = registry.counter(name + ".bytes");
            blocks = registry.counter(name + ".blocks");
            waitMillis = registry.counter(name + ".waitMillis");
            repeats = registry.counter(name + ".repeats");
            failedTries = registry.counter(name + ".failedTries");
        }
    }

    @Override
    public String sourceName() {
        return "forebay";
    }

    @Override
    public MetricRegistry metricRegistry() {
        return registry;
    }

    /** Counts what a task did. */
    public void count(ShuffleTraffic task) {
        Direction direction = task.write ? write : read;
        direction.bytes.inc(task.bytes());
        direction.blocks.inc(task.blocks());
        direction.waitMillis.inc(TimeUnit.NANOSECONDS.toMillis(task.waitNanos));
        direction.repeats.inc(task.repeats);
        direction.failedTries.inc(task.failures());
        outputs.inc(task.outputs);
        records.inc(task.records);
        inputs.inc(task.write ? 0 : task.tasks);
    }

    /** Counts an unreadable output, whose map runs again. */
    public void countFetchFailure() {
        fetchFailures.inc();
    }
}

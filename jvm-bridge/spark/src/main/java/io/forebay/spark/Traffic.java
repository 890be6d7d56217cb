package io.forebay.spark;

import io.forebay.core.BlockReader;
import io.forebay.core.CommittedOutput;
import io.forebay.core.MapOutputWriter;
import io.forebay.core.ServerStats;
import io.forebay.spark.ui.ForebaySource;
import io.forebay.spark.ui.ShuffleTraffic;
import java.util.List;
import org.apache.spark.TaskContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reports one task's work at one shuffle at its end: to the driver by the handle's reports, to this
 * executor's metrics, and, after trouble, to the executor's log.
 */
final class Traffic {
    private static final Logger LOG = LoggerFactory.getLogger(Traffic.class);

    /** Null in the driver's JVM, whose metrics count all tasks' reports. */
    private final ForebaySource source;

    private final ForebayShuffleHandle<?, ?, ?> handle;
    private final TaskContext context;

    Traffic(ForebayShuffleHandle<?, ?, ?> handle, TaskContext context, ForebaySource source) {
        this.handle = handle;
        this.context = context;
        this.source = source;
    }

    /** @param committed the output, or null if it was not committed */
    void wrote(MapOutputWriter output, CommittedOutput committed) {
        ShuffleTraffic task = start(true);
        MapOutputWriter.Stats stats = output.stats();
        task.waitNanos = stats.waitNanos();
        task.repeats = stats.resends();
        servers(task, output.servers());
        if (committed != null) {
            task.outputs = 1;
            task.records = stats.records();
            // An output may be empty and still be there.
            for (String place : committed.places()) {
                String address = place.substring(place.indexOf('@') + 1);
                ShuffleTraffic.Server server = task.servers.computeIfAbsent(address, none -> new ShuffleTraffic.Server());
                server.tasks = 1;
                server.volumes.add(place.substring(0, place.indexOf('@')));
            }
        }
        tell(task, "output of map " + context.partitionId());
    }

    /** The task's reads of this shuffle, over all its readers. */
    Sum reads() {
        return new Sum();
    }

    /** Adds up the readers of a task. */
    final class Sum {
        private final ShuffleTraffic task = start(false);
        private int readers;
        private ReadRange range;

        /** A reader is closed. */
        synchronized void add(BlockReader input, ReadRange read) {
            BlockReader.Stats stats = input.stats();
            readers++;
            range = read;
            task.waitNanos += stats.waitNanos();
            task.repeats += stats.resumes();
            servers(task, input.servers());
        }

        /** Once, when the task has ended. */
        synchronized void tell() {
            if (readers > 0) {
                String more = readers > 1 ? " and " + (readers - 1) + " more inputs" : "";
                Traffic.this.tell(task, "input of partitions " + range.partitionStart + ".." + range.partitionEnd + more);
            }
        }
    }

    private ShuffleTraffic start(boolean write) {
        ShuffleTraffic task = new ShuffleTraffic();
        task.shuffle = handle.shuffleId();
        task.stage = context.stageId();
        task.write = write;
        return task;
    }

    private static void servers(ShuffleTraffic task, List<ServerStats> servers) {
        for (ServerStats stats : servers) {
            ShuffleTraffic.Server server = task.servers.computeIfAbsent(stats.address(), none -> new ShuffleTraffic.Server());
            server.bytes += stats.bytes();
            server.blocks += stats.blocks();
            server.failures += stats.failures();
            server.lastFailure = stats.lastFailure().isEmpty() ? server.lastFailure : stats.lastFailure();
            server.tasks = server.bytes > 0 ? 1 : 0;
        }
    }

    private void tell(ShuffleTraffic task, String what) {
        if (handle.reports != null) {
            handle.reports.add(task);
        }
        if (source != null) {
            source.count(task);
        }
        task.servers.forEach(
                (address, server) -> {
                    if (server.failures > 0) {
                        LOG.warn(
                                "{} (attempt {}) of shuffle {}, app {}: tries that failed at {}: {}, the last with: {}",
                                what,
                                context.taskAttemptId(),
                                task.shuffle,
                                handle.caller().app(),
                                address,
                                server.failures,
                                server.lastFailure);
                    }
                });
        LOG.debug(
                "{} (attempt {}) of shuffle {}, app {}: {} servers, waited {} ns, {} repeated",
                what,
                context.taskAttemptId(),
                task.shuffle,
                handle.caller().app(),
                task.servers.size(),
                task.waitNanos,
                task.repeats);
    }
}

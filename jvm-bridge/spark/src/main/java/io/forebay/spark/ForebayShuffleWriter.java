package io.forebay.spark;

import io.forebay.core.CommittedOutput;
import io.forebay.core.InterruptCheck;
import io.forebay.core.MapAttempt;
import io.forebay.core.MapOutputWriter;
import java.io.IOException;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.util.TaskCompletionListener;
import scala.Option;
import scala.Product2;
import scala.collection.Iterator;

/**
 * Writes the output of one map attempt: its records are pushed while they are computed, and
 * {@link #stop} commits them. Until then nothing of it is visible, so whatever goes wrong leaves
 * nothing behind (invariant: whole-attempt-or-none).
 *
 * <p>All native waits look at the task's kill flag, so a killed task leaves within milliseconds.
 */
final class ForebayShuffleWriter<K, V, C> extends ShuffleWriter<K, V> {
    private final ForebayShuffleHandle<K, V, C> handle;
    private final ShuffleDependency<K, V, C> dependency;
    private final long attempt;
    private final TaskContext context;
    private final ShuffleWriteMetricsReporter metrics;
    private final ClientHolder client;
    private final long arenaBytes;
    private final Traffic traffic;
    private final Object[] checksums;
    private final ArenaMemory memory;

    private MapOutputWriter output;
    private long[] partitionLengths;
    private CommittedOutput committed;
    private boolean stopped;

    ForebayShuffleWriter(
            ShuffleTask<K, V, C> task, long attempt, ShuffleWriteMetricsReporter metrics, long arenaBytes) {
        this.handle = task.handle;
        this.dependency = handle.dependency();
        this.attempt = attempt;
        this.context = task.context;
        this.metrics = metrics;
        this.client = task.client;
        this.arenaBytes = arenaBytes;
        this.traffic = task.traffic;
        this.checksums = Shim.rowChecksums(dependency);
        this.memory = new ArenaMemory(context.taskMemoryManager());
        // Spark calls stop on the ways out that it knows; this is for the others.
        context.addTaskCompletionListener((TaskCompletionListener) ended -> close());
    }

    @Override
    public void write(Iterator<Product2<K, V>> records) throws IOException {
        if (handle.numPartitions == 0) {
            if (records.hasNext()) {
                throw new IllegalArgumentException("shuffle " + handle.shuffleId() + " has no partitions but records");
            }
            return;
        }
        InterruptCheck interrupt = Interrupts.ofTask(context);
        MapAttempt writes = new MapAttempt(handle.number(), context.partitionId(), attempt);
        output = client.get().openWriter(handle.caller(), writes, handle.layout(), arenaBytes, interrupt);
        try {
            writeAll(records);
        } catch (Exception e) {
            throw Sneaky.rethrow(e);
        } finally {
            // From here on there is nothing to be pushed early.
            memory.serve(null);
        }
    }

    private void writeAll(Iterator<Product2<K, V>> records) throws Exception {
        Pushed pushed = new Pushed(output, metrics);
        Serializer serializer = dependency.serializer();
        if (!serializer.supportsRelocationOfSerializedObjects()) {
            new ChunkWriter<>(dependency, checksums, context, pushed).write(records);
            return;
        }
        Arena arena = new Arena(output.arenaAddress(), arenaBytes, pushed, memory);
        memory.serve(arena);
        if (writesRows(dependency)) {
            new UnsafeRowWriter<K, V>(dependency, checksums, arena).write(records);
        } else if (dependency.mapSideCombine()) {
            new SerializedWriter<K, C>(dependency, checksums, arena).write(combined(records));
        } else {
            new SerializedWriter<K, V>(dependency, checksums, arena).write(records);
        }
    }

    /**
     * Whether records are rows with their length, as {@link RowIterator} reads them, and not what
     * the serialiser makes of them.
     */
    static boolean writesRows(ShuffleDependency<?, ?, ?> dependency) {
        return Shim.isUnsafeRows(dependency.serializer()) && !dependency.mapSideCombine();
    }

    @SuppressWarnings("unchecked")
    private Iterator<Product2<K, C>> combined(Iterator<Product2<K, V>> records) {
        Iterator<?> combined = dependency.aggregator().get().combineValuesByKey(records, context);
        return (Iterator<Product2<K, C>>) combined;
    }

    /** Commits and tells where the output is, or aborts. A second call does nothing. */
    @Override
    public Option<MapStatus> stop(boolean success) {
        if (stopped) {
            return Option.empty();
        }
        try {
            return success ? Option.apply(commit()) : Option.empty();
        } finally {
            close();
        }
    }

    private MapStatus commit() {
        BlockManagerId location;
        if (handle.numPartitions == 0) {
            location = VolumeLocation.nowhere(handle.shuffleId());
            partitionLengths = new long[0];
        } else {
            long start = System.nanoTime();
            committed = output.commit();
            metrics.incWriteTime(System.nanoTime() - start);
            location = VolumeLocation.of(handle.shuffleId(), committed.location());
            partitionLengths = committed.partitionLengths();
            long bytes = 0;
            for (long length : partitionLengths) {
                bytes += length;
            }
            metrics.incBytesWritten(bytes);
        }
        return Shim.mapStatus(location, partitionLengths, attempt, Shim.aggregate(checksums));
    }

    /** Stored bytes per partition; null until the output is committed. */
    @Override
    public long[] getPartitionLengths() {
        return partitionLengths;
    }

    private void close() {
        if (stopped) {
            return;
        }
        stopped = true;
        memory.serve(null);
        memory.release();
        if (output != null) {
            output.close();
            traffic.wrote(output, committed);
        }
    }

    /** Pushes, and keeps Spark's account of it. */
    private static final class Pushed implements Arena.Output {
        private final MapOutputWriter output;
        private final ShuffleWriteMetricsReporter metrics;

        Pushed(MapOutputWriter output, ShuffleWriteMetricsReporter metrics) {
            this.output = output;
            this.metrics = metrics;
        }

        @Override
        public void flush(int records, long dataBytes) {
            long start = System.nanoTime();
            output.flush(records, dataBytes);
            done(records, start);
        }

        @Override
        public boolean grow(long bytes, boolean must) {
            return output.grow(bytes, must);
        }

        @Override
        public void part(int partition, byte[] bytes, int length, int records, boolean more) {
            long start = System.nanoTime();
            output.part(partition, bytes, 0, length, records, more);
            done(records, start);
        }

        @Override
        public void block(int partition, byte[] bytes, int offset, int length, int records) {
            long start = System.nanoTime();
            output.block(partition, bytes, offset, length, records);
            done(records, start);
        }

        private void done(int records, long start) {
            metrics.incRecordsWritten(records);
            metrics.incWriteTime(System.nanoTime() - start);
        }
    }
}

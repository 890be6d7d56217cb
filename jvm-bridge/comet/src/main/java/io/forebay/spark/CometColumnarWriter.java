package io.forebay.spark;

import java.io.IOException;
import java.io.OutputStream;
import java.util.Arrays;
import java.util.Map;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.shuffle.BaseShuffleHandle;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.shuffle.api.ShuffleExecutorComponents;
import org.apache.spark.shuffle.api.ShuffleMapOutputWriter;
import org.apache.spark.shuffle.api.ShufflePartitionWriter;
import org.apache.spark.shuffle.api.metadata.MapOutputCommitMessage;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleDependency;
import org.apache.spark.sql.comet.execution.shuffle.CometUnsafeShuffleWriter;
import org.apache.spark.sql.execution.metric.SQLMetric;
import scala.Option;
import scala.Product2;
import scala.collection.Iterator;

/**
 * Writes the output of one map attempt of Comet's columnar exchange: Comet's own writer, which sorts
 * Spark's rows and encodes them, with Forebay where it would write the shuffle's file.
 */
final class CometColumnarWriter<K, V> extends ShuffleWriter<K, V> {
    private final ShuffleWriter<K, V> comets;
    private final CometOutput output;
    private final boolean encrypted;

    CometColumnarWriter(
            CometShuffleDependency<K, V, ?> dependency, CometOutput output, TaskContext context, ShuffleWriteMetricsReporter metrics) {
        this.output = output;
        this.encrypted = CometOutput.isEncryptedByComet(false);
        this.comets = comets(dependency, context, metrics);
    }

    @SuppressWarnings("unchecked")
    private ShuffleWriter<K, V> comets(
            CometShuffleDependency<K, V, ?> columnar, TaskContext context, ShuffleWriteMetricsReporter metrics) {
        ShuffleDependency<K, V, V> dependency = (ShuffleDependency<K, V, V>) (ShuffleDependency<K, V, ?>) columnar;
        SparkEnv env = SparkEnv.get();
        Option<SQLMetric> encodeTime = columnar.shuffleWriteMetrics().get("encode_time");
        SQLMetric encode = encodeTime.isDefined() ? encodeTime.get() : null;
        long attempt = context.taskAttemptId();
        ShuffleExecutorComponents components = new Components();
        // Comet's other writer, for few partitions, makes a file of each: nothing is gained by that here.
        return new CometUnsafeShuffleWriter<>(
                env.blockManager(),
                context.taskMemoryManager(),
                new BaseShuffleHandle<K, V, V>(dependency.shuffleId(), dependency),
                attempt,
                context,
                env.conf(),
                metrics,
                components,
                encode);
    }

    @Override
    public void write(Iterator<Product2<K, V>> records) throws IOException {
        comets.write(records);
    }

    @Override
    public Option<MapStatus> stop(boolean success) {
        try {
            // Frees Comet's memory; where it thinks the output is does not matter.
            Option<MapStatus> ended = comets.stop(success);
            return success && ended.isDefined() ? Option.apply(output.commit()) : Option.empty();
        } finally {
            output.close();
        }
    }

    @Override
    public long[] getPartitionLengths() {
        return output.partitionLengths();
    }

    /** What Comet's writer writes to. */
    private final class Components implements ShuffleExecutorComponents {
        @Override
        public void initializeExecutor(String appId, String execId, Map<String, String> extraConfigs) {}

        @Override
        public ShuffleMapOutputWriter createMapOutputWriter(int shuffleId, long mapTaskId, int numPartitions) {
            return new MapOutput(numPartitions);
        }
    }

    private final class MapOutput implements ShuffleMapOutputWriter {
        private final long[] lengths;
        private Partition current;

        MapOutput(int numPartitions) {
            lengths = new long[numPartitions];
        }

        @Override
        public ShufflePartitionWriter getPartitionWriter(int partition) throws IOException {
            finish();
            current = new Partition(partition);
            return current;
        }

        @Override
        public MapOutputCommitMessage commitAllPartitions(long[] checksums) throws IOException {
            finish();
            return MapOutputCommitMessage.of(lengths);
        }

        /** The stream of a partition may be shielded from being closed. */
        private void finish() throws IOException {
            if (current != null) {
                lengths[current.number] = current.bytes;
                current.finish();
                current = null;
            }
        }

        /** The end of the task does it. */
        @Override
        public void abort(Throwable error) {}
    }

    /** One partition's bytes, handed over frame by frame. */
    private final class Partition extends OutputStream implements ShufflePartitionWriter {
        private final int number;
        private long bytes;
        private byte[] held = new byte[8 << 10];
        private int length;

        Partition(int number) {
            this.number = number;
        }

        @Override
        public OutputStream openStream() {
            return this;
        }

        @Override
        public long getNumBytesWritten() {
            return bytes;
        }

        @Override
        public void write(int b) throws IOException {
            write(new byte[] {(byte) b}, 0, 1);
        }

        @Override
        public void write(byte[] more, int offset, int count) throws IOException {
            bytes += count;
            if (length + (long) count > held.length) {
                long longer = Math.max(length + (long) count, 2L * held.length);
                held = Arrays.copyOf(held, (int) Math.min(longer, Integer.MAX_VALUE - 8));
            }
            System.arraycopy(more, offset, held, length, count);
            length += count;
            if (!encrypted) {
                handOver();
            }
        }

        /** All frames that are whole. */
        private void handOver() throws IOException {
            int whole = 0;
            while (length - whole >= CometOutput.PREFIX) {
                int frame = CometOutput.frameLength(held, whole);
                if (frame < 0 || frame > length - whole) {
                    if (frame < 0) {
                        output.frames(number, held, whole, length - whole);
                    }
                    break;
                }
                whole += frame;
            }
            if (whole > 0) {
                output.frames(number, held, 0, whole);
                System.arraycopy(held, whole, held, 0, length - whole);
                length -= whole;
            }
        }

        private void finish() throws IOException {
            if (encrypted && length > 0) {
                output.stream(number, held, length);
            } else if (length > 0) {
                output.frames(number, held, 0, length);
            }
            length = 0;
            held = null;
        }
    }
}

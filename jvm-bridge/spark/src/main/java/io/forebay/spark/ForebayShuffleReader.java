package io.forebay.spark;

import io.forebay.core.BlockReader;
import io.forebay.core.ForebayException;
import io.forebay.core.InterruptCheck;
import org.apache.spark.InterruptibleIterator;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.shuffle.ShuffleReader;
import org.apache.spark.util.collection.ExternalSorter;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Option;
import scala.Product2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;
import scala.math.Ordering;

/**
 * Reads partitions of a shuffle, of all maps or of a range, then combines and sorts as the
 * dependency asks, with Spark's own parts.
 */
final class ForebayShuffleReader<K, C> implements ShuffleReader<K, C> {
    private static final Logger LOG = LoggerFactory.getLogger(ForebayShuffleReader.class);

    private final ForebayShuffleHandle<K, ?, C> handle;
    private final ReadRange range;
    private final TaskContext context;
    private final ShuffleReadMetricsReporter metrics;
    private final ClientHolder client;
    private final long windowBytes;
    private final Traffic traffic;

    ForebayShuffleReader(
            ShuffleTask<K, ?, C> task, ReadRange range, ShuffleReadMetricsReporter metrics, long windowBytes) {
        this.handle = task.handle;
        this.range = range;
        this.context = task.context;
        this.metrics = metrics;
        this.client = task.client;
        this.windowBytes = windowBytes;
        this.traffic = task.traffic;
    }

    @Override
    public Iterator<Product2<K, C>> read() {
        ShuffleDependency<K, ?, C> dependency = handle.dependency();
        Iterator<Product2<K, C>> records = records();
        boolean plain = dependency.aggregator().isEmpty() && dependency.keyOrdering().isEmpty();
        if (plain && records instanceof RowIterator) {
            // The row iterator looks at the kill flag itself, less often than at every row.
            return records;
        }
        records = new InterruptibleIterator<>(context, records);
        if (plain) {
            return records;
        }
        if (dependency.aggregator().isDefined()) {
            records = aggregated(dependency, records);
        }
        if (dependency.keyOrdering().isDefined()) {
            records = sorted(dependency, records);
        }
        // Aggregator and sorter have used up the first one.
        return new InterruptibleIterator<>(context, records);
    }

    private Iterator<Product2<K, C>> records() {
        boolean rows = ForebayShuffleWriter.writesRows(handle.dependency());
        BlockSource source = source(rows);
        if (source == null) {
            return new Nothing<>();
        }
        InterruptCheck interrupt = Interrupts.ofTask(context);
        TaskReaders readers = TaskReaders.of(context);
        Serializer serializer = handle.dependency().serializer();
        if (rows) {
            int fields = (Integer) Shim.unsafeRowField(serializer, "numFields");
            RowIterator<K, C> read = new RowIterator<>(source, fields, TaskReaders.taskThread(context), interrupt, readers::ended);
            source.onHalfWay(read::count);
            return read;
        }
        return new RecordIterator<>(source, serializer.newInstance(), serializer.supportsRelocationOfSerializedObjects(), readers::ended);
    }

    /** The verified blocks; null if no map has data: then no server is asked. */
    BlockSource source() {
        return source(false);
    }

    private BlockSource source(boolean rows) {
        int shuffle = handle.shuffleId();
        MapOutputs outputs =
                new MapOutputs(
                        shuffle,
                        range,
                        SingleLoss.mayBeTold(handle.mapsRunAlone(), context.stageAttemptNumber(), attempts()),
                        SparkEnv.get()
                                .mapOutputTracker()
                                .getMapSizesByExecutorId(shuffle, range.mapStart, range.mapEnd, range.partitionStart, range.partitionEnd));
        if (outputs.isEmpty()) {
            return null;
        }
        InterruptCheck interrupt = Interrupts.ofTask(context);
        TaskReaders readers = TaskReaders.of(context);
        BlockReader reader = client.get().openReader(handle.caller(), handle.number(), outputs.plan(), windowBytes, interrupt);
        if (rows) {
            reader.recordsHaveLengths();
        }
        Traffic.Sum sum = readers.sum(shuffle, traffic);
        BlockSource source = new BlockSource(input(reader, sum), outputs, interrupt, metrics, readers);
        readers.add(source);
        return source;
    }

    private static int attempts() {
        return SparkEnv.get().conf().getInt("spark.stage.maxConsecutiveAttempts", 4);
    }

    private BlockSource.Input input(BlockReader reader, Traffic.Sum sum) {
        return new BlockSource.Input() {
            private boolean told;

            @Override
            public boolean next(BlockReader.Block block, InterruptCheck check) {
                return reader.next(block, check);
            }

            @Override
            public void release(BlockReader.Block block) {
                reader.release(block);
            }

            @Override
            public long waitedNanos() {
                return reader.stats().waitNanos();
            }

            @Override
            public void cut() {
                if (!told) {
                    told = true;
                    tell();
                }
                reader.cut();
            }

            private void tell() {
                try {
                    sum.add(reader, range);
                } catch (ForebayException e) {
                    LOG.debug("the counters of a reader are not to be had: {}", e.getMessage());
                }
            }

            @Override
            public void close() {
                try {
                    cut();
                } finally {
                    reader.close();
                }
            }
        };
    }

    @SuppressWarnings("unchecked")
    private <V> Iterator<Product2<K, C>> aggregated(ShuffleDependency<K, V, C> dependency, Iterator<Product2<K, C>> records) {
        Iterator<?> combined;
        if (dependency.mapSideCombine()) {
            combined = dependency.aggregator().get().combineCombinersByKey(records, context);
        } else {
            combined = dependency.aggregator().get().combineValuesByKey((Iterator<Product2<K, V>>) (Iterator<?>) records, context);
        }
        return (Iterator<Product2<K, C>>) combined;
    }

    private Iterator<Product2<K, C>> sorted(ShuffleDependency<K, ?, C> dependency, Iterator<Product2<K, C>> records) {
        Option<Ordering<K>> ordering = dependency.keyOrdering();
        ExternalSorter<K, C, C> sorter = Shim.sorter(context, Option.empty(), Option.empty(), ordering, dependency.serializer());
        return sorter.insertAllAndUpdateMetrics(records);
    }

    /** The input of a task for which no map has data. No server is asked. */
    private static final class Nothing<T> extends AbstractIterator<T> {
        @Override
        public boolean hasNext() {
            return false;
        }

        @Override
        public T next() {
            throw new java.util.NoSuchElementException("no rows");
        }
    }
}

package io.forebay.spark;

import io.forebay.spark.Arena.Output;
import org.apache.spark.Aggregator;
import org.apache.spark.Partitioner;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.serializer.SerializerInstance;
import org.apache.spark.util.collection.ExternalSorter;
import scala.Option;
import scala.Product2;
import scala.Tuple2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;
import scala.reflect.ClassTag;

/**
 * For serialisers with indivisible streams, such as Java's: Spark's own sorter brings records, as
 * objects, into the order of partitions (combining and spilling as needed), then each partition is
 * written as closed streams.
 *
 * <p>One stream per partition open all the time would hold the last hundred objects of each, unseen
 * by Spark's memory manager.
 */
final class ChunkWriter<K, V, C> extends RecordWriter<K, V> {
    private static final ClassTag<Object> ANY = scala.reflect.ClassTag$.MODULE$.Object();

    /** Serialised bytes after which a stream is closed. */
    private static final int CHUNK = 1 << 20;

    private final ShuffleDependency<K, V, C> dependency;
    private final TaskContext context;
    private final Output output;

    ChunkWriter(ShuffleDependency<K, V, C> dependency, Object[] checksums, TaskContext context, Output output) {
        super(dependency, checksums);
        this.dependency = dependency;
        this.context = context;
        this.output = output;
    }

    @Override
    void write(Iterator<Product2<K, V>> records) throws Exception {
        boolean combine = dependency.mapSideCombine();
        Option<Aggregator<K, V, C>> aggregator = combine ? dependency.aggregator() : Option.empty();
        Checked<K, V> checked = new Checked<>(this, dependency.partitioner().numPartitions());
        // Reducers sort; here the order within a partition only matters to the sorter's own merging
        // of equal keys.
        ExternalSorter<K, V, C> sorter =
                Shim.sorter(
                        context,
                        aggregator,
                        Option.apply(checked),
                        combine ? dependency.keyOrdering() : Option.empty(),
                        dependency.serializer());
        try {
            sorter.insertAll(checked.of(records));
            SerializerInstance serializer = dependency.serializer().newInstance();
            Bytes bytes = new Bytes();
            Iterator<Tuple2<Object, Iterator<Product2<K, C>>>> partitions = sorter.partitionedIterator();
            while (partitions.hasNext()) {
                Tuple2<Object, Iterator<Product2<K, C>>> partition = partitions.next();
                writePartition((Integer) partition._1(), partition._2(), serializer, bytes);
            }
        } finally {
            // Reported like Spark's own writer does, whose sorter writes its file.
            context.taskMetrics().incMemoryBytesSpilled(sorter.memoryBytesSpilled());
            context.taskMetrics().incDiskBytesSpilled(sorter.diskBytesSpilled());
            context.taskMetrics().incPeakExecutionMemory(sorter.peakMemoryUsedBytes());
            sorter.stop();
        }
    }

    private void writePartition(int partition, Iterator<Product2<K, C>> records, SerializerInstance serializer, Bytes bytes) {
        while (records.hasNext()) {
            int count = 0;
            try (SerializationStream stream = serializer.serializeStream(bytes)) {
                do {
                    Product2<K, C> record = records.next();
                    stream.writeKey(record._1(), ANY);
                    stream.writeValue(record._2(), ANY);
                    count++;
                } while (bytes.size() < CHUNK && records.hasNext());
            }
            output.block(partition, bytes.array(), 0, bytes.size(), count);
            bytes.clear();
        }
    }

    /**
     * Looks at each record's partition before the sorter takes the record, and poses as the
     * sorter's partitioner: the sorter asks for each record right after taking it. The real
     * partitioner is asked once per record, because a round-robin partitioner answers differently
     * the second time.
     */
    private static final class Checked<K, V> extends Partitioner {
        private static final long serialVersionUID = 1L;

        private final transient RecordWriter<K, V> writer;
        private final int numPartitions;
        private int partition;

        Checked(RecordWriter<K, V> writer, int numPartitions) {
            this.writer = writer;
            this.numPartitions = numPartitions;
        }

        Iterator<Product2<K, V>> of(Iterator<Product2<K, V>> records) {
            return new AbstractIterator<Product2<K, V>>() {
                @Override
                public boolean hasNext() {
                    return records.hasNext();
                }

                @Override
                public Product2<K, V> next() {
                    Product2<K, V> record = records.next();
                    partition = writer.partition(record._1(), record._2());
                    return record;
                }
            };
        }

        @Override
        public int numPartitions() {
            return numPartitions;
        }

        @Override
        public int getPartition(Object key) {
            return partition;
        }
    }
}

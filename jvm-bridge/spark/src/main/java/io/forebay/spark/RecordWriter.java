package io.forebay.spark;

import org.apache.spark.Partitioner;
import org.apache.spark.ShuffleDependency;
import scala.Product2;
import scala.collection.Iterator;

/**
 * Brings the records of one map task into the form to be pushed, which depends on the serialiser.
 */
abstract class RecordWriter<K, V> {
    private final Partitioner partitioner;
    private final int numPartitions;
    private final Object[] checksums;

    RecordWriter(ShuffleDependency<K, ?, ?> dependency, Object[] checksums) {
        this.partitioner = dependency.partitioner();
        this.numPartitions = partitioner.numPartitions();
        this.checksums = checksums;
    }

    /** Writes all records; when it returns, all have been handed on. */
    abstract void write(Iterator<Product2<K, V>> records) throws Exception;

    /**
     * The partition of a record, which it also accounts for in the row checksums
     * (invariant: checksum-told).
     */
    final int partition(Object key, Object value) {
        int partition = partitioner.getPartition(key);
        if (partition < 0 || partition >= numPartitions) {
            throw new IllegalArgumentException(
                    "the partitioner " + partitioner.getClass().getName() + " put a record into partition " + partition + " of " + numPartitions);
        }
        if (checksums.length > 0) {
            Shim.updateChecksum(checksums[partition], key, value);
        }
        return partition;
    }
}

package io.forebay.spark;

import org.apache.spark.ShuffleDependency;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.execution.metric.SQLMetric;
import scala.Product2;
import scala.collection.Iterator;

/**
 * Spark SQL's rows: bytes already, so no serialiser is called. A row is copied once, into the
 * arena.
 */
final class UnsafeRowWriter<K, V> extends RecordWriter<K, V> {
    private final Arena arena;

    /**
     * Size of the data, which adaptive execution plans by; null if nobody asked. Spark's serialiser
     * would have counted it.
     */
    private final SQLMetric dataSize;

    UnsafeRowWriter(ShuffleDependency<K, ?, ?> dependency, Object[] checksums, Arena arena) {
        super(dependency, checksums);
        this.arena = arena;
        this.dataSize = (SQLMetric) Shim.unsafeRowField(dependency.serializer(), "dataSize");
    }

    @Override
    void write(Iterator<Product2<K, V>> records) {
        long size = 0;
        while (records.hasNext()) {
            Product2<K, V> record = records.next();
            K key = record._1();
            UnsafeRow row = (UnsafeRow) record._2();
            int length = row.getSizeInBytes();
            arena.row(partition(key, row), row.getBaseObject(), row.getBaseOffset(), length);
            size += length;
        }
        arena.flush();
        if (dataSize != null) {
            dataSize.add(size);
        }
    }
}

package io.forebay.spark;

import java.io.IOException;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.serializer.SerializationStream;
import scala.Product2;
import scala.collection.Iterator;
import scala.reflect.ClassTag;

/**
 * For relocatable serialisers: one stream for the task, cut into records, then sorted as bytes.
 */
final class SerializedWriter<K, V> extends RecordWriter<K, V> {
    private static final ClassTag<Object> ANY = scala.reflect.ClassTag$.MODULE$.Object();

    private final ShuffleDependency<K, ?, ?> dependency;
    private final Arena arena;

    SerializedWriter(ShuffleDependency<K, ?, ?> dependency, Object[] checksums, Arena arena) {
        super(dependency, checksums);
        this.dependency = dependency;
        this.arena = arena;
    }

    @Override
    void write(Iterator<Product2<K, V>> records) throws IOException {
        Bytes serialised = new Bytes();
        try (SerializationStream stream = dependency.serializer().newInstance().serializeStream(serialised)) {
            while (records.hasNext()) {
                Product2<K, V> record = records.next();
                K key = record._1();
                V value = record._2();
                stream.writeKey(key, ANY);
                stream.writeValue(value, ANY);
                stream.flush();
                arena.record(partition(key, value), serialised.array(), serialised.size());
                serialised.clear();
            }
        }
        arena.flush();
    }
}

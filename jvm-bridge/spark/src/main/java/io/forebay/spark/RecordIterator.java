package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import java.util.NoSuchElementException;
import org.apache.spark.serializer.SerializerInstance;
import scala.Product2;
import scala.Tuple2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;

/**
 * Deserialised records. With a relocatable serialiser all blocks are one stream; otherwise each
 * block is a closed stream. The number of records is compared with the blocks' own, because some
 * deserialisers take a cut-off record for the end.
 */
final class RecordIterator<K, C> extends AbstractIterator<Product2<K, C>> {
    private final Blocks source;
    private final SerializerInstance serializer;
    private final boolean oneStream;
    private final Runnable ended;

    private BlockStream stream;
    private Iterator<Tuple2<Object, Object>> records;
    private long fromStream;
    private boolean exhausted;

    /** What every further question is answered with. */
    private Throwable failure;

    /**
     * @param oneStream whether the serialiser's records may be moved about
     * @param ended run once, when the last record has been handed out
     */
    RecordIterator(Blocks source, SerializerInstance serializer, boolean oneStream, Runnable ended) {
        this.source = source;
        this.serializer = serializer;
        this.oneStream = oneStream;
        this.ended = ended;
    }

    @Override
    public boolean hasNext() {
        if (failure != null) {
            throw Sneaky.rethrow(failure);
        }
        try {
            return findNext();
        } catch (Throwable e) {
            throw Sneaky.rethrow(kept(e));
        }
    }

    private boolean findNext() {
        while (!exhausted) {
            if (records != null && records.hasNext()) {
                return true;
            }
            if (records != null) {
                check();
            }
            Block block = new Block();
            if (source.next(block)) {
                stream = new BlockStream(source, block, oneStream);
                records = serializer.deserializeStream(stream).asKeyValueIterator();
            } else {
                exhausted = true;
                records = null;
                stream = null;
                ended.run();
            }
        }
        return false;
    }

    /**
     * A deserialiser is lost after a failure in the middle: a second call might misread the rest,
     * or take it for the end. The same holds after a kill or an interrupt.
     */
    private Throwable kept(Throwable thrown) {
        failure = thrown;
        records = null;
        stream = null;
        return source.fail(thrown);
    }

    private void check() {
        stream.finish();
        if (fromStream != stream.records()) {
            throw new IllegalStateException(
                    "a shuffle block holds " + stream.records() + " records, but " + serializer.getClass().getName() + " made " + fromStream
                            + " of it: does the serialiser read what it wrote?");
        }
        fromStream = 0;
    }

    @Override
    @SuppressWarnings("unchecked")
    public Product2<K, C> next() {
        if (!hasNext()) {
            throw new NoSuchElementException("no more records");
        }
        Product2<K, C> record;
        try {
            record = (Product2<K, C>) (Product2<?, ?>) records.next();
        } catch (Throwable e) {
            throw Sneaky.rethrow(kept(e));
        }
        fromStream++;
        source.countRecords(1);
        return record;
    }
}

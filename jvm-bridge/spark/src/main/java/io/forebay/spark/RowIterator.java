package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import io.forebay.core.InterruptCheck;
import java.util.NoSuchElementException;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.unsafe.Platform;
import scala.Product2;
import scala.Tuple2;
import scala.collection.AbstractIterator;

/**
 * Spark SQL's rows, without a copy: one row object that points into the native memory of the current block.
 *
 * <p>A row is good until {@link #next} is called again, as with Spark's own serialiser, whose buffer is used again too. So the block of the
 * current row is freed by {@code next} when it moves on, never by {@link #hasNext}; the last one stays until the task ends.
 */
final class RowIterator<K, C> extends AbstractIterator<Product2<K, C>> {
    /** Rows between two looks at the task's kill flag. */
    private static final int CHECK_EVERY = 4096;

    private final Blocks source;
    private final InterruptCheck interrupt;
    private final Runnable ended;
    private final UnsafeRow row;
    private final Product2<K, C> pair;

    private Block current = new Block();
    private Block upcoming = new Block();
    private boolean hasUpcoming;
    private boolean exhausted;

    /** In the current block: rows that are left, where the next begins, and where the last ends. */
    private int left;

    private long position;
    private long end;

    /** Rows handed out and not yet counted. */
    private int uncounted;

    /**
     * @param numFields fields of a row
     * @param ended run once, when the last row has been handed out
     */
    @SuppressWarnings("unchecked")
    RowIterator(Blocks source, int numFields, InterruptCheck interrupt, Runnable ended) {
        this.source = source;
        this.interrupt = interrupt;
        this.ended = ended;
        this.row = new UnsafeRow(numFields);
        // Spark's serialiser drops the key and gives 0, always the same pair, too.
        this.pair = (Product2<K, C>) (Product2<?, ?>) new Tuple2<Object, Object>(0, row);
    }

    @Override
    public boolean hasNext() {
        if (left > 0 || hasUpcoming) {
            return true;
        }
        if (exhausted) {
            return false;
        }
        count();
        hasUpcoming = source.next(upcoming);
        if (!hasUpcoming) {
            exhausted = true;
            ended.run();
        }
        return hasUpcoming;
    }

    @Override
    public Product2<K, C> next() {
        if (left == 0) {
            if (!hasNext()) {
                throw new NoSuchElementException("no more rows");
            }
            advance();
        }
        int length = position + Arena.LENGTH <= end ? Platform.getInt(null, position) : -1;
        long start = position + Arena.LENGTH;
        if (length < 0 || start + length > end) {
            throw malformed();
        }
        position = start + length;
        left--;
        if (left == 0 && position != end) {
            throw malformed();
        }
        row.pointTo(null, start, length);
        if (++uncounted == CHECK_EVERY) {
            count();
            interrupt.check();
        }
        return pair;
    }

    private void advance() {
        Block done = current;
        if (done.address() != 0) {
            source.release(done);
        }
        current = upcoming;
        upcoming = done;
        hasUpcoming = false;
        left = current.records();
        position = current.address();
        end = position + current.length();
    }

    /** Tells Spark of the rows handed out since it was told last; also when the task leaves the iterator half way. */
    void count() {
        source.countRecords(uncounted);
        uncounted = 0;
    }

    /** The checksum was right, so it was written like this: by another version, or by a bug. Never go on reading memory at random. */
    private IllegalStateException malformed() {
        return new IllegalStateException(
                "a block of map " + current.mapIndex() + " (attempt " + current.attempt() + ", partition " + current.partition()
                        + ") does not hold the rows it says: is the same Forebay jar on every executor?");
    }
}

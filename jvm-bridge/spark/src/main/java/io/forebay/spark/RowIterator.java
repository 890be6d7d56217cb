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
 * Spark SQL's rows: one row object that points into the current block.
 *
 * <p>Rows for the task's own thread are not copied: the block's native memory goes at the end of
 * the task, on that thread. Any other thread gets its rows from the heap, a block at a time (see
 * {@link Blocks}), such as the thread that feeds a process and outlives the task. The first row for
 * another thread switches for good.
 *
 * <p>A row is good until {@link #next} is called again, as with Spark's own serialiser, whose
 * buffer is used again too. So the block of the current row is freed by {@code next} when it moves
 * on, never by {@link #hasNext}; the last row is moved to the heap when there is no more.
 */
final class RowIterator<K, C> extends AbstractIterator<Product2<K, C>> {
    private final Blocks source;
    private final InterruptCheck interrupt;
    private final Runnable ended;
    private final UnsafeRow row;
    private final Product2<K, C> pair;

    /** The task's own thread; null if that is not known, or another thread has asked. */
    private Thread task;

    private Block current = new Block();
    private Block upcoming = new Block();
    private boolean hasUpcoming;
    private boolean exhausted;

    /** The current block on the heap, once it is there. */
    private byte[] heap;

    /**
     * The current block: rows left, begin of the next row, end of the last. Addresses, or, as in
     * Unsafe, offsets in {@code heap}.
     */
    private int left;

    private long position;
    private long end;

    /** Rows of the current block that have been counted. */
    private int counted;

    private int records;

    /**
     * @param numFields fields of a row
     * @param task the thread on which the task ends, or null if it is not known
     * @param ended run once, when the last row has been handed out
     */
    @SuppressWarnings("unchecked")
    RowIterator(Blocks source, int numFields, Thread task, InterruptCheck interrupt, Runnable ended) {
        this.source = source;
        this.task = task;
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
        try {
            hasUpcoming = source.next(upcoming);
        } finally {
            if (!hasUpcoming) {
                keepRow();
            }
        }
        if (!hasUpcoming) {
            exhausted = true;
            ended.run();
        }
        return hasUpcoming;
    }

    /**
     * The last row stays good though its block may go: no other thread is reading the row at this
     * moment.
     */
    private void keepRow() {
        long start = row.getBaseOffset();
        boolean inBlock = row.getBaseObject() == null && start >= current.address() && start < current.address() + current.length();
        if (!inBlock || current.address() == 0) {
            return;
        }
        byte[] bytes = new byte[row.getSizeInBytes()];
        try {
            source.copy(start, bytes, 0, bytes.length);
            row.pointTo(bytes, Platform.BYTE_ARRAY_OFFSET, bytes.length);
        } catch (IllegalStateException e) {
            // The task has ended: later calls tell, and the row is of no use.
        }
    }

    @Override
    public Product2<K, C> next() {
        // Looking at the thread costs two loads. What counts rows and looks at the kill flag is
        // done once per block instead.
        if (left == 0 || Thread.currentThread() != task) {
            settle();
        }
        int length = position + Arena.LENGTH <= end ? Platform.getInt(heap, position) : -1;
        long start = position + Arena.LENGTH;
        if (length < 0 || start + length > end) {
            throw malformed();
        }
        position = start + length;
        left--;
        if (left == 0 && position != end) {
            throw malformed();
        }
        row.pointTo(heap, start, length);
        return pair;
    }

    /** Gets a row to be handed to the calling thread. */
    private void settle() {
        if (Thread.currentThread() != task) {
            task = null;
        }
        if (left == 0) {
            if (!hasNext()) {
                throw new NoSuchElementException("no more rows");
            }
            advance();
        }
        if (task == null && heap == null) {
            heap = source.take(current, position);
            position = Platform.BYTE_ARRAY_OFFSET;
            end = position + heap.length;
        }
    }

    private void advance() {
        Block done = current;
        if (done.isHeld()) {
            source.release(done);
        }
        current = upcoming;
        upcoming = done;
        hasUpcoming = false;
        heap = current.heap();
        records = current.records();
        counted = 0;
        left = records;
        position = heap == null ? current.address() : Platform.BYTE_ARRAY_OFFSET;
        end = position + current.length();
        interrupt.check();
    }

    /**
     * Tells Spark of the rows handed out since it was told last; also when the task leaves the
     * iterator half way.
     */
    void count() {
        // Another thread may be counting at the end of the task: then the number is approximate.
        int handedOut = Math.max(counted, records - left);
        source.countRecords(handedOut - counted);
        counted = handedOut;
    }

    /**
     * The checksum was right, so the block was written this way, by another version or by a bug.
     * Never go on reading memory at random.
     */
    private IllegalStateException malformed() {
        left = 0;
        hasUpcoming = false;
        keepRow();
        return source.fail(
                new IllegalStateException(
                        "a block of map " + current.mapIndex() + " (attempt " + current.attempt() + ", partition " + current.partition()
                                + ") does not hold the rows it says: is the same Forebay jar on every executor?"));
    }
}

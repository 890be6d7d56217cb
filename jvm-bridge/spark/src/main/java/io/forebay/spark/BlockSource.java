package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import io.forebay.core.ForebayException;
import io.forebay.core.InterruptCheck;
import java.util.concurrent.TimeUnit;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.unsafe.Platform;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The verified blocks of one reduce task: keeps Spark's account of the read, reports failures to
 * Spark in its own words, and decides when native memory goes.
 *
 * <ul>
 *   <li>At the end of the input, or with a failure, everything but the last block goes at once,
 *       together with the reader's knowledge of map outputs: a task may read thousands of inputs
 *       one after the other.
 *   <li>At the end of the task everything goes, on the thread of the task. Other threads that still
 *       read for the task (Spark stops them without waiting) notice with their next call. One lock
 *       orders the call and the end.
 *   <li>A failure is kept and repeated for every later call, instead of an end of input.
 * </ul>
 */
final class BlockSource implements Blocks {
    private static final Logger LOG = LoggerFactory.getLogger(BlockSource.class);

    /** Blocks between two looks at the clock of the native side. */
    private static final int WAIT_EVERY = 64;

    /** Where blocks come from. */
    interface Input {
        boolean next(Block block, InterruptCheck interrupt);

        void release(Block block);

        long waitedNanos();

        /** Frees everything but the blocks that are lent. */
        void cut();

        /** Frees everything. */
        void close();
    }

    /** Who closes a source. */
    interface Owner {
        /**
         * Called when the source has ended or failed and holds nothing but its last block, if
         * {@code lent}; called again once the last block is gone.
         */
        void finished(BlockSource source, boolean lent);

        /**
         * Called when the task leaves the source half way: the last row may point into this input's
         * block.
         */
        void left(Input input, long bytes);
    }

    private final InterruptCheck interrupt;
    private final ShuffleReadMetricsReporter metrics;
    private final Owner owner;
    private final long expectedBlocks;

    /** Null once it is closed. */
    private Input input;

    /** Null once nothing can fail any more. */
    private MapOutputs outputs;

    private long blocks;

    /** Lent blocks, and their bytes; not those on the heap. */
    private int lent;

    private long lentBytes;
    private long waitedNanos;
    private boolean ended;
    private Throwable failure;

    /** The unfinished report of an iterator left half way. */
    private Runnable halfWay = () -> {};

    /** Set before the lock is taken: a thread in a wait for a server leaves the wait. */
    private volatile boolean closing;

    BlockSource(Input input, MapOutputs outputs, InterruptCheck interrupt, ShuffleReadMetricsReporter metrics, Owner owner) {
        this.input = input;
        this.outputs = outputs;
        this.interrupt = interrupt;
        this.metrics = metrics;
        this.owner = owner;
        this.expectedBlocks = outputs.blocks();
    }

    /** Ends with a fetch failure if an output cannot be read. */
    @Override
    public synchronized boolean next(Block block) {
        if (failure != null) {
            throw Sneaky.rethrow(failure);
        }
        while (!ended) {
            open();
            try {
                if (!input.next(block, this::check)) {
                    ended = true;
                    // Spark counts blocks as pairs of map and partition, ours are smaller or
                    // larger.
                    metrics.incRemoteBlocksFetched(expectedBlocks - countedBlocks());
                    finished();
                    return false;
                }
            } catch (ForebayException e) {
                throw Sneaky.rethrow(fail(translate(e)));
            }
            if (block.address() != 0) {
                lent++;
                lentBytes += block.length();
            }
            blocks++;
            if (blocks < expectedBlocks) {
                metrics.incRemoteBlocksFetched(1);
            }
            metrics.incRemoteBytesRead(block.storedBytes());
            if (blocks % WAIT_EVERY == 0) {
                countWait();
            }
            if (block.records() > 0) {
                return true;
            }
            release(block);
        }
        return false;
    }

    private Throwable translate(ForebayException e) {
        try {
            return outputs.translate(e);
        } catch (Throwable thrown) {
            // A fetch failure is a checked exception, and is thrown where it is made.
            return thrown;
        }
    }

    private void check() {
        if (closing) {
            throw left();
        }
        interrupt.check();
    }

    private void open() {
        if (input == null || closing) {
            throw left();
        }
    }

    private static IllegalStateException left() {
        return new IllegalStateException("the task has ended, and what it read from Forebay with it: a thread of the task reads on");
    }

    private long countedBlocks() {
        return Math.max(0, Math.min(blocks, expectedBlocks - 1));
    }

    private void countWait() {
        long before = TimeUnit.NANOSECONDS.toMillis(waitedNanos);
        waitedNanos = input.waitedNanos();
        metrics.incFetchWaitTime(TimeUnit.NANOSECONDS.toMillis(waitedNanos) - before);
    }

    @Override
    public synchronized <E extends Throwable> E fail(E thrown) {
        if (failure == null) {
            failure = thrown;
            finished();
        }
        return thrown;
    }

    /** Run if the task ends before the blocks do. */
    synchronized void onHalfWay(Runnable told) {
        halfWay = told;
    }

    /** Nothing more is asked of the servers. */
    private void finished() {
        boolean first = outputs != null;
        outputs = null;
        halfWay = null;
        if (first && input != null) {
            lastWait();
            input.cut();
            owner.finished(this, lent > 0);
        }
    }

    private void lastWait() {
        try {
            countWait();
        } catch (ForebayException e) {
            LOG.debug("the last wait of a reader is not counted: {}", e.getMessage());
        }
    }

    /** Frees everything. What other threads ask from then on is an error. */
    void close() {
        closing = true;
        synchronized (this) {
            if (input == null) {
                return;
            }
            Input gone = input;
            if (ended || failure != null) {
                input = null;
                gone.close();
                return;
            }
            halfWay.run();
            lastWait();
            input = null;
            outputs = null;
            halfWay = null;
            if (lent > 0) {
                gone.cut();
                owner.left(gone, lentBytes);
            } else {
                gone.close();
            }
        }
    }

    @Override
    public synchronized void release(Block block) {
        if (input != null && block.isHeld()) {
            if (block.address() != 0) {
                lent--;
                lentBytes -= block.length();
            }
            input.release(block);
            if (lent == 0 && (ended || failure != null)) {
                owner.finished(this, false);
            }
        }
    }

    @Override
    public synchronized void copy(long address, byte[] target, int offset, int length) {
        open();
        Platform.copyMemory(null, address, target, Platform.BYTE_ARRAY_OFFSET + offset, length);
    }

    @Override
    public void countRecords(long records) {
        metrics.incRecordsRead(records);
    }
}

package io.forebay.spark;

import io.forebay.core.BlockReader;
import io.forebay.core.BlockReader.Block;
import io.forebay.core.ForebayException;
import java.util.concurrent.TimeUnit;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The verified blocks of one reduce task: keeps Spark's account of what is read, and tells Spark of failures in its own words. Iterators
 * may be left at any point, so it is closed when the task ends.
 */
final class BlockSource implements Blocks {
    private static final Logger LOG = LoggerFactory.getLogger(BlockSource.class);

    /** Blocks between two looks at the clock of the native side. */
    private static final int WAIT_EVERY = 64;

    private final BlockReader reader;
    private final MapOutputs outputs;
    private final ShuffleReadMetricsReporter metrics;
    private final ReaderCleanup cleanup;

    private long blocks;
    private volatile long waitedNanos;
    private boolean ended;

    BlockSource(BlockReader reader, MapOutputs outputs, ShuffleReadMetricsReporter metrics, ReaderCleanup cleanup) {
        this.reader = reader;
        this.outputs = outputs;
        this.metrics = metrics;
        this.cleanup = cleanup;
    }

    /** Ends with a fetch failure if an output cannot be read. */
    @Override
    public boolean next(Block block) {
        cleanup.usedBy(Thread.currentThread());
        while (!ended) {
            try {
                if (!reader.next(block)) {
                    ended = true;
                    // Spark counts blocks as pairs of map and partition, ours are smaller or larger.
                    metrics.incRemoteBlocksFetched(outputs.blocks() - countedBlocks());
                    countWait();
                    return false;
                }
            } catch (ForebayException e) {
                ended = true;
                throw outputs.translate(e);
            }
            blocks++;
            if (blocks < outputs.blocks()) {
                metrics.incRemoteBlocksFetched(1);
            }
            metrics.incRemoteBytesRead(block.storedBytes());
            if (blocks % WAIT_EVERY == 0) {
                countWait();
            }
            if (block.records() > 0) {
                return true;
            }
            reader.release(block);
        }
        return false;
    }

    private long countedBlocks() {
        return Math.max(0, Math.min(blocks, outputs.blocks() - 1));
    }

    private void countWait() {
        long before = TimeUnit.NANOSECONDS.toMillis(waitedNanos);
        waitedNanos = reader.stats().waitNanos();
        metrics.incFetchWaitTime(TimeUnit.NANOSECONDS.toMillis(waitedNanos) - before);
    }

    /** The task has ended: counts what an iterator that was left half way has not. */
    void left() {
        if (!ended) {
            try {
                countWait();
            } catch (ForebayException e) {
                LOG.debug("another thread still reads: its last wait is not counted: {}", e.getMessage());
            }
        }
    }

    /** Time spent waiting for servers, as far as it is counted. */
    long waitedNanos() {
        return waitedNanos;
    }

    @Override
    public void release(Block block) {
        reader.release(block);
    }

    @Override
    public void countRecords(long records) {
        metrics.incRecordsRead(records);
    }
}

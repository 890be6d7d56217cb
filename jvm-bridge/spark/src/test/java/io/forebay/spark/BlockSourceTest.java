package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.BlockReader.Block;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The end of a task against a thread that reads for it. */
@Timeout(60)
class BlockSourceTest {
    private final BlocksForTests blocks = new BlocksForTests();

    @AfterEach
    void close() {
        blocks.close();
    }

    /**
     * The thread is between its question and the answer when the task ends: it must not come back
     * with a block that is freed.
     */
    @Test
    void threadThatWaitsForABlockWhenTheTaskEndsIsToldSo() throws Exception {
        blocks.rows(1);
        CountDownLatch inside = new CountDownLatch(1);
        CountDownLatch closing = new CountDownLatch(1);
        blocks.asked =
                () -> {
                    inside.countDown();
                    try {
                        // Longer than it takes the other thread to come to the lock.
                        closing.await();
                        Thread.sleep(100);
                    } catch (InterruptedException e) {
                        throw new IllegalStateException(e);
                    }
                };
        Block block = new Block();
        FutureTask<Throwable> asking =
                new FutureTask<>(
                        () -> {
                            try {
                                blocks.next(block);
                                return null;
                            } catch (Throwable e) {
                                return e;
                            }
                        });
        new Thread(asking).start();
        inside.await();
        closing.countDown();
        blocks.source.close();
        Throwable thrown = asking.get(30, TimeUnit.SECONDS);
        // Either it came first, and its block was lent before everything was freed, or it is told.
        assertEquals(IllegalStateException.class, thrown.getClass());
        assertEquals(0, block.address());
        assertTrue(blocks.blocks.isClosed());
    }

    /**
     * Many rounds of reading on one thread and ending on another: every row is right, or the reader
     * is told.
     */
    @Test
    void rowsAreRightOrTheReaderIsToldWhereverTheTaskEnds() throws Exception {
        for (int round = 0; round < 300; round++) {
            try (BlocksForTests some = new BlocksForTests()) {
                for (int b = 0; b < 20; b++) {
                    some.rows(7, 7, 7, 7, 7, 7, 7, 7, 7, 7);
                }
                RowIterator<Object, Object> rows = new RowIterator<>(some, 1, null, () -> {}, () -> {});
                FutureTask<Throwable> reading =
                        new FutureTask<>(
                                () -> {
                                    try {
                                        while (rows.hasNext()) {
                                            long value = ((org.apache.spark.sql.catalyst.expressions.UnsafeRow) rows.next()._2()).getLong(0);
                                            if (value != 7) {
                                                return new AssertionError("row of freed memory: " + value);
                                            }
                                        }
                                        return null;
                                    } catch (IllegalStateException e) {
                                        return e.getMessage().contains("task has ended") ? null : e;
                                    }
                                });
                new Thread(reading).start();
                for (long end = System.nanoTime() + round * 10_000L; System.nanoTime() < end; ) {
                    Thread.yield();
                }
                some.source.close();
                assertNull(reading.get(30, TimeUnit.SECONDS));
            }
        }
    }

    @Test
    void releaseAfterTheTaskHasEndedDoesNothing() {
        blocks.rows(1);
        Block block = new Block();
        assertTrue(blocks.next(block));
        blocks.source.close();
        blocks.release(block);
        assertFalse(blocks.blocks.isClosed());
        assertEquals(1, blocks.left.size());
        blocks.left.get(0).close();
        assertTrue(blocks.blocks.isClosed());
    }
}

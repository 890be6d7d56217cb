package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.NoSuchElementException;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class RowIteratorTest {
    private final BlocksForTests blocks = new BlocksForTests();
    private int ended;
    private int checks;

    private final RowIterator<Object, Object> rows = new RowIterator<>(blocks, 1, Thread.currentThread(), () -> checks++, () -> ended++);

    @AfterEach
    void close() {
        blocks.close();
    }

    private long next() {
        return ((UnsafeRow) rows.next()._2()).getLong(0);
    }

    @Test
    void rowsOfAllBlocksComeInTheirOrder() {
        blocks.rows(1, 2, 3).rows(4).rows(5, 6);
        List<Long> values = new ArrayList<>();
        while (rows.hasNext()) {
            values.add(next());
        }
        assertEquals(Arrays.asList(1L, 2L, 3L, 4L, 5L, 6L), values);
        assertEquals(6, blocks.counted());
        assertFalse(rows.hasNext());
        assertThrows(NoSuchElementException.class, rows::next);
        assertEquals(1, ended);
    }

    @Test
    void longRowsComeFromTheHeapBetweenThoseOfBlocks() {
        blocks.longRow(1).rows(2, 3).longRow(4).longRow(5).rows(6).longRow(7);
        for (long value = 1; value <= 7; value++) {
            assertTrue(rows.hasNext());
            UnsafeRow row = (UnsafeRow) rows.next()._2();
            assertEquals(value, row.getLong(0));
            rows.hasNext();
            assertEquals(value, row.getLong(0));
        }
        assertFalse(rows.hasNext());
        assertEquals(0, blocks.blocks.lent());
        assertTrue(blocks.blocks.isClosed());
        assertEquals(7, blocks.counted());
    }

    @Test
    void nextWorksWithoutHasNext() {
        blocks.rows(1).rows(2);
        assertEquals(1, next());
        assertEquals(2, next());
        assertThrows(NoSuchElementException.class, rows::next);
    }

    @Test
    void rowIsGoodUntilTheNextOneIsAskedForAndNotOnlyUntilHasNext() {
        blocks.rows(1).rows(2);
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        assertTrue(rows.hasNext());
        assertTrue(rows.hasNext());
        assertEquals(1, row.getLong(0));
        assertEquals(2, blocks.blocks.lent());
        assertSame(row, rows.next()._2());
        assertEquals(2, row.getLong(0));
        assertEquals(1, blocks.blocks.lent());
    }

    @Test
    void lastRowIsGoodForEverAndItsReaderIsCutAtOnce() {
        blocks.rows(1, 2);
        next();
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        assertFalse(rows.hasNext());
        assertTrue(blocks.blocks.isCut());
        assertEquals(2, row.getLong(0));
        blocks.source.close();
        assertTrue(blocks.blocks.isClosed());
        assertEquals(2, row.getLong(0));
        assertFalse(rows.hasNext());
    }

    @Test
    void failureIsNotTheEndWhenItIsAskedAgain() {
        IllegalStateException gone = new IllegalStateException("gone");
        blocks.rows(1).blocks.fail(gone);
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        for (int i = 0; i < 3; i++) {
            assertSame(gone, assertThrows(IllegalStateException.class, rows::hasNext));
            assertSame(gone, assertThrows(IllegalStateException.class, rows::next));
        }
        assertEquals(0, ended);
        assertEquals(1, row.getLong(0));
    }

    @Test
    void anotherThreadReadsFromTheHeapWhateverBecomesOfTheTask() throws Exception {
        blocks.rows(1, 2, 3).rows(4, 5);
        assertTrue(rows.hasNext());
        List<Long> seen = other(() -> Arrays.asList(next(), next()));
        assertEquals(Arrays.asList(1L, 2L), seen);
        assertEquals(0, blocks.blocks.lent());
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        blocks.source.close();
        assertTrue(blocks.blocks.isClosed());
        assertEquals(3, row.getLong(0));
        String message = other(() -> assertThrows(IllegalStateException.class, rows::hasNext).getMessage());
        assertTrue(message.contains("task has ended"), message);
        assertThrows(IllegalStateException.class, rows::next);
        assertEquals(3, row.getLong(0));
    }

    @Test
    void threadThatGoesOnInTheMiddleOfABlockReadsFromTheHeap() throws Exception {
        blocks.rows(1, 2, 3, 4).rows(5);
        assertEquals(1, next());
        assertEquals(2, next());
        UnsafeRow row = other(() -> (UnsafeRow) rows.next()._2());
        assertEquals(0, blocks.blocks.lent());
        blocks.source.close();
        assertEquals(3, row.getLong(0));
        assertEquals(4, other(this::next));
        assertThrows(IllegalStateException.class, rows::hasNext);
    }

    @Test
    void readerThatIsMadeOnAnotherThreadReadsFromTheHeap() {
        RowIterator<Object, Object> unknown = new RowIterator<>(blocks, 1, null, () -> {}, () -> {});
        blocks.rows(1, 2).rows(3);
        for (long i = 1; i <= 3; i++) {
            assertEquals(i, ((UnsafeRow) unknown.next()._2()).getLong(0));
            assertEquals(0, blocks.blocks.lent());
        }
        assertFalse(unknown.hasNext());
        assertTrue(blocks.blocks.isClosed());
    }

    @Test
    void rowThatTheTaskPassedOnBeforeItEndedIsGoodForAWhile() throws Exception {
        blocks.rows(1, 2);
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        blocks.source.close();
        assertFalse(blocks.blocks.isClosed());
        assertEquals(1, blocks.left.size());
        assertEquals(1, other(() -> row.getLong(0)));
        assertThrows(IllegalStateException.class, () -> other(rows::next));
    }

    private static <T> T other(java.util.concurrent.Callable<T> work) throws Exception {
        java.util.concurrent.FutureTask<T> task = new java.util.concurrent.FutureTask<>(work);
        Thread thread = new Thread(task);
        thread.start();
        thread.join();
        try {
            return task.get();
        } catch (java.util.concurrent.ExecutionException e) {
            throw (Exception) e.getCause();
        }
    }

    @Test
    void iteratorThatIsLeftHalfWayHasCountedWhatItGave() {
        blocks.rows(1, 2, 3);
        next();
        next();
        rows.count();
        assertEquals(2, blocks.counted());
        assertEquals(0, ended);
    }

    @Test
    void killFlagIsLookedAtNowAndThen() {
        for (int i = 0; i < 10; i++) {
            blocks.rows(new long[1000]);
        }
        for (int i = 0; i < 10_000; i++) {
            next();
        }
        assertEquals(10, checks);
    }

    @Test
    void blockThatDoesNotHoldTheRowsItSaysIsRefusedBeforeMemoryBehindItIsRead() {
        byte[] tooLong = {100, 0, 0, 0, 0, 0, 0, 0};
        byte[] negative = {-1, -1, -1, -1, 0, 0, 0, 0};
        byte[] cutOff = {1, 0};
        byte[] more = {4, 0, 0, 0, 1, 1, 1, 1, 9};
        for (byte[] bytes : new byte[][] {tooLong, negative, cutOff, more}) {
            try (BlocksForTests odd = new BlocksForTests()) {
                odd.blocks.add(1, bytes);
                RowIterator<Object, Object> iterator = new RowIterator<>(odd, 1, Thread.currentThread(), () -> {}, () -> {});
                Exception malformed = assertThrows(IllegalStateException.class, iterator::next);
                String message = malformed.getMessage();
                assertTrue(message.contains("map 5") && message.contains("attempt 55"), message);
                assertSame(malformed, assertThrows(IllegalStateException.class, iterator::hasNext));
                assertSame(malformed, assertThrows(IllegalStateException.class, iterator::next));
            }
        }
    }
}

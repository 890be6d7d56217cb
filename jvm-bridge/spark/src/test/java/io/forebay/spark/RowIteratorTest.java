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

    private final RowIterator<Object, Object> rows = new RowIterator<>(blocks, 1, () -> checks++, () -> ended++);

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
        assertEquals(6, blocks.counted);
        assertFalse(rows.hasNext());
        assertThrows(NoSuchElementException.class, rows::next);
        assertEquals(1, ended);
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
    void lastRowIsGoodUntilTheTaskEnds() {
        blocks.rows(1);
        UnsafeRow row = (UnsafeRow) rows.next()._2();
        assertFalse(rows.hasNext());
        assertEquals(1, row.getLong(0));
        assertEquals(1, blocks.blocks.lent());
    }

    @Test
    void iteratorThatIsLeftHalfWayHasCountedWhatItGave() {
        blocks.rows(1, 2, 3);
        next();
        next();
        rows.count();
        assertEquals(2, blocks.counted);
        assertEquals(0, ended);
    }

    @Test
    void killFlagIsLookedAtNowAndThen() {
        blocks.rows(new long[10_000]);
        for (int i = 0; i < 10_000; i++) {
            next();
        }
        assertEquals(2, checks);
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
                RowIterator<Object, Object> iterator = new RowIterator<>(odd, 1, () -> {}, () -> {});
                String message = assertThrows(IllegalStateException.class, iterator::next).getMessage();
                assertTrue(message.contains("map 5") && message.contains("attempt 55"), message);
            }
        }
    }
}

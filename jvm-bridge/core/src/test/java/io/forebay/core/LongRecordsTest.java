package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.BlockReader.Block;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import org.junit.jupiter.api.Test;

class LongRecordsTest {
    private final LongRecords records = new LongRecords();
    private final Block block = new Block();

    private boolean add(int attempt, byte[] bytes, int count, boolean continues, boolean more) {
        return add(attempt, bytes, count, continues, more, (id, target, offset) -> System.arraycopy(bytes, 0, target, offset, bytes.length));
    }

    private boolean add(int attempt, byte[] bytes, int count, boolean continues, boolean more, LongRecords.Source source) {
        block.fill(new long[] {4096, bytes.length, count, 2, 1, attempt, 9, 7, 0});
        return records.add(block, continues, more, source);
    }

    private byte[] joined() {
        return Arrays.copyOf(block.heap(), (int) block.length());
    }

    @Test
    void partsOfSeveralOutputsAreJoinedApart() {
        assertFalse(add(1, new byte[] {1, 2}, 0, false, true));
        assertFalse(add(2, new byte[] {10}, 0, false, true));
        assertFalse(add(1, new byte[] {3}, 0, true, true));
        assertTrue(add(2, new byte[] {11, 12, 13}, 1, true, false));
        assertArrayEquals(new byte[] {10, 11, 12, 13}, joined());
        assertEquals(14, block.storedBytes());
        assertTrue(add(1, new byte[] {4}, 2, true, false));
        assertArrayEquals(new byte[] {1, 2, 3, 4}, joined());
        assertEquals(2, block.records());
        assertEquals(0, block.address());
    }

    @Test
    void lengthAtTheFrontIsAHintAndNothingElse() {
        records.haveLengths();
        for (int hint : new int[] {6, 0, -1, 2, 60, Integer.MAX_VALUE}) {
            byte[] first = ByteBuffer.allocate(6).order(ByteOrder.nativeOrder()).putInt(hint).array();
            assertFalse(add(1, first, 0, false, true));
            assertTrue(add(1, new byte[] {5, 6, 7, 8}, 1, true, false));
            assertEquals(10, block.length());
            assertArrayEquals(new byte[] {5, 6, 7, 8}, Arrays.copyOfRange(joined(), 6, 10));
        }
    }

    /** A row with a hole, or an end without the row, would be a wrong answer. */
    @Test
    void afterAPartThatCouldNotBeTakenNothingMoreComes() {
        for (boolean last : new boolean[] {false, true}) {
            LongRecords some = new LongRecords();
            block.fill(new long[] {4096, 2, 0, 2, 1, 1, 9, 7, 0});
            assertFalse(some.add(block, false, true, (id, target, offset) -> {}));
            OutOfMemoryError full = new OutOfMemoryError();
            LongRecords.Source failing =
                    (id, target, offset) -> {
                        throw full;
                    };
            assertThrows(OutOfMemoryError.class, () -> some.add(block, true, !last, failing));
            assertThrows(IllegalStateException.class, some::check);
            assertThrows(IllegalStateException.class, () -> some.add(block, true, false, (id, target, offset) -> {}));
        }
    }

    @Test
    void partThatDoesNotFollowIsRefused() {
        assertThrows(IllegalStateException.class, () -> add(1, new byte[] {1}, 1, true, false));
        assertThrows(IllegalStateException.class, records::check);
    }
}

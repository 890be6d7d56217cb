package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.Random;
import org.apache.spark.unsafe.Platform;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Reads back, as the native side does, what the arena was filled with. */
class ArenaTest {
    private static final int BYTES = 8192;

    private long base;
    private final List<String> pushed = new ArrayList<>();
    private final List<Integer> flushes = new ArrayList<>();
    private long claimed;
    private long most = Long.MAX_VALUE;
    private long room = Long.MAX_VALUE;

    private final ByteArrayOutputStream part = new ByteArrayOutputStream();
    private int parts;

    private final Arena.Output output =
            new Arena.Output() {
                @Override
                public void flush(int records, long dataBytes) {
                    assertTrue(dataBytes + 8L * records <= BYTES, "records and entries overlap");
                    flushes.add(records);
                    for (int i = 0; i < records; i++) {
                        long start = entry(i) & 0xffffffffL;
                        long end = i + 1 < records ? entry(i + 1) & 0xffffffffL : dataBytes;
                        byte[] record = new byte[(int) (end - start)];
                        Platform.copyMemory(null, base + start, record, Platform.BYTE_ARRAY_OFFSET, record.length);
                        pushed.add((entry(i) >>> 32) + ":" + Arrays.toString(record));
                    }
                }

                @Override
                public boolean grow(long bytes, boolean must) {
                    return must || bytes <= room;
                }

                @Override
                public void part(int partition, byte[] bytes, int length, int records, boolean more) {
                    assertEquals(more ? 0 : 1, records);
                    assertTrue(!more || length == bytes.length, "only the last part is short");
                    part.write(bytes, 0, length);
                    parts++;
                    if (!more) {
                        pushed.add(partition + ":" + Arrays.toString(part.toByteArray()));
                        part.reset();
                    }
                }

                @Override
                public void block(int partition, byte[] bytes, int offset, int length, int records) {
                    assertEquals(1, records);
                    pushed.add(partition + ":" + Arrays.toString(Arrays.copyOfRange(bytes, offset, offset + length)));
                }

                private long entry(int i) {
                    return Platform.getLong(null, base + BYTES - 8L * (i + 1));
                }
            };

    private final Arena.Memory memory =
            bytes -> {
                if (claimed + bytes > most) {
                    return false;
                }
                claimed += bytes;
                return true;
            };

    @BeforeEach
    void allocate() {
        base = Platform.allocateMemory(BYTES);
    }

    @AfterEach
    void free() {
        Platform.freeMemory(base);
    }

    private Arena arena() {
        return new Arena(base, BYTES, output, memory);
    }

    private static String record(int partition, byte[] bytes) {
        return partition + ":" + Arrays.toString(bytes);
    }

    @Test
    void arenaIsPushedEarlierWhereTheProcessHasNoRoom() {
        room = 2048;
        Arena arena = arena();
        for (int i = 0; i < 100; i++) {
            arena.record(1, new byte[92], 92);
        }
        arena.record(2, new byte[5000], 5000);
        arena.flush();
        assertEquals(101, pushed.size());
        // Steps of an eighth, 1024 bytes: two of them hold 20 records; one that is longer than all
        // has to go somewhere.
        assertEquals(Arrays.asList(20, 20, 20, 20, 20, 1), flushes);
    }

    @Test
    void recordsOfAnyLengthComeOutAsTheyWentIn() {
        Random random = new Random(1);
        Arena arena = arena();
        List<String> expected = new ArrayList<>();
        for (int i = 0; i < 5000; i++) {
            // Now and then just around the arena's size, and beyond.
            byte[] bytes = new byte[i % 100 == 0 ? BYTES - 20 + i / 100 : 1 + random.nextInt(200)];
            random.nextBytes(bytes);
            int partition = random.nextInt(70000);
            arena.record(partition, bytes, bytes.length);
            expected.add(record(partition, bytes));
        }
        arena.flush();
        // A record that is longer than the arena overtakes those that wait in it: order between
        // records is nobody's concern.
        expected.sort(null);
        pushed.sort(null);
        assertEquals(expected, pushed);
        assertEquals(BYTES, claimed);
    }

    @Test
    void rowHasItsLengthBeforeIt() {
        byte[] row = {0, 1, 2, 3, 4, 5, 6, 7};
        Arena arena = arena();
        arena.row(3, row, Platform.BYTE_ARRAY_OFFSET, 8);
        arena.row(4, row, Platform.BYTE_ARRAY_OFFSET + 4, 4);
        arena.row(5, row, Platform.BYTE_ARRAY_OFFSET, 0);
        arena.flush();
        assertEquals(
                Arrays.asList(
                        record(3, new byte[] {8, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7}),
                        record(4, new byte[] {4, 0, 0, 0, 4, 5, 6, 7}),
                        record(5, new byte[] {0, 0, 0, 0})),
                pushed);
    }

    @Test
    void rowLongerThanTheArenaIsPushedWhole() {
        byte[] row = new byte[BYTES];
        row[BYTES - 1] = 9;
        Arena arena = arena();
        arena.row(1, row, Platform.BYTE_ARRAY_OFFSET, row.length);
        byte[] expected = new byte[BYTES + 4];
        expected[1] = 0x20; // 8192
        expected[BYTES + 3] = 9;
        assertEquals(Arrays.asList(record(1, expected)), pushed);
    }

    @Test
    void longRowIsPushedInPartsThatAreItsBytesInOrder() {
        for (int length : new int[] {(1 << 20) - 4, (1 << 20) - 3, (3 << 20) - 4, (2 << 20) + 17}) {
            byte[] row = new byte[length];
            new Random(length).nextBytes(row);
            byte[] expected = ByteBuffer.allocate(length + 4).order(ByteOrder.nativeOrder()).putInt(length).put(row).array();
            pushed.clear();
            parts = 0;
            arena().row(2, row, Platform.BYTE_ARRAY_OFFSET, length);
            assertEquals(Arrays.asList(record(2, expected)), pushed);
            assertEquals((expected.length + (1 << 20) - 1) >> 20, parts);
        }
    }

    @Test
    void fullArenaIsPushedAndUsedAgain() {
        Arena arena = arena();
        byte[] record = new byte[1016]; // with its entry 1024: eight fill the arena to the last byte
        for (int i = 0; i < 24; i++) {
            arena.record(0, record, record.length);
        }
        assertEquals(Arrays.asList(8, 8), flushes);
        arena.flush();
        assertEquals(Arrays.asList(8, 8, 8), flushes);
    }

    @Test
    void memoryIsClaimedAsTheArenaFillsAndNotBefore() {
        Arena arena = arena();
        assertEquals(0, claimed);
        arena.record(0, new byte[8], 8);
        assertEquals(BYTES / 8, claimed);
        arena.record(0, new byte[2000], 2000);
        assertEquals(BYTES / 8 * 2, claimed);
    }

    @Test
    void whereMemoryIsShortItIsPushedEarlier() {
        most = BYTES / 4;
        Arena arena = arena();
        byte[] record = new byte[1016];
        for (int i = 0; i < 8; i++) {
            arena.record(0, record, record.length);
        }
        arena.flush();
        assertEquals(Arrays.asList(2, 2, 2, 2), flushes);
        assertEquals(BYTES / 4, claimed);
    }

    @Test
    void withNoMemoryAtAllTheTaskStillGoesOn() {
        most = 0;
        Arena arena = arena();
        arena.record(0, new byte[3000], 3000); // more than a step
        arena.record(1, new byte[100], 100);
        arena.record(2, new byte[5000], 5000);
        arena.flush();
        assertEquals(3, pushed.size());
        assertEquals(0, claimed);
    }

    @Test
    void earlyPushLosesNothing() {
        Arena arena = arena();
        List<String> expected = new ArrayList<>();
        for (int i = 0; i < 300; i++) {
            byte[] bytes = {(byte) i, 2, 3};
            arena.record(i, bytes, 3);
            expected.add(record(i, bytes));
            if (i % 7 == 0) {
                arena.shrink();
                claimed = 0;
            }
        }
        arena.shrink();
        arena.shrink();
        arena.flush();
        assertArrayEquals(expected.toArray(), pushed.toArray());
    }
}

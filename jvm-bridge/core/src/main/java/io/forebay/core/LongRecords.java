package io.forebay.core;

import io.forebay.core.BlockReader.Block;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * Records longer than a block, put together on the heap from the blocks in which they come. That
 * each part is the next of its record is checked before it comes here.
 */
final class LongRecords {
    /** What virtual machines have for the longest array. */
    private static final int LONGEST = Integer.MAX_VALUE - 8;

    private final Map<Key, Open> open = new HashMap<>();
    private boolean lengths;

    void haveLengths() {
        lengths = true;
    }

    /**
     * Takes a part, which is released.
     *
     * @return whether it was the last: the block is the record now
     */
    boolean add(Block block, boolean more, long reader) {
        Key key = new Key(block.attempt(), block.partition());
        Open record = open.remove(key);
        if (record == null) {
            record = new Open();
        }
        int length = (int) block.length();
        boolean first = record.length == 0;
        record.room(length);
        Native.readerTake(reader, block.id(), record.bytes, record.length);
        record.length += length;
        record.stored += block.storedBytes();
        if (first && lengths && length >= Integer.BYTES) {
            long all = Integer.BYTES + (long) ByteBuffer.wrap(record.bytes).order(ByteOrder.nativeOrder()).getInt();
            if (all > length && all <= LONGEST) {
                record.bytes = Arrays.copyOf(record.bytes, (int) all);
            }
        }
        if (more) {
            open.put(key, record);
            return false;
        }
        block.fill(record.bytes, record.length, record.stored);
        return true;
    }

    private static final class Open {
        private byte[] bytes = new byte[0];
        private int length;
        private long stored;

        void room(int more) {
            if (more > LONGEST - length) {
                throw new IllegalStateException("a record of more than " + LONGEST + " bytes: no array is as long");
            }
            if (bytes.length < length + more) {
                int twice = (int) Math.min(LONGEST, 2L * length);
                bytes = Arrays.copyOf(bytes, Math.max(length + more, twice));
            }
        }
    }

    private static final class Key {
        private final long attempt;
        private final int partition;

        Key(long attempt, int partition) {
            this.attempt = attempt;
            this.partition = partition;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Key && ((Key) other).attempt == attempt && ((Key) other).partition == partition;
        }

        @Override
        public int hashCode() {
            return Long.hashCode(attempt) * 31 + partition;
        }
    }
}

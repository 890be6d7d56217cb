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
    private boolean broken;

    void haveLengths() {
        lengths = true;
    }

    /** Where the bytes of a part are. */
    interface Source {
        /** Copies a block to the heap and releases it. */
        void take(long block, byte[] target, int offset);
    }

    /**
     * @throws IllegalStateException if a part could not be taken: what comes after it is of a
     *     record with a hole, or the end of an input without that record
     */
    void check() {
        if (broken) {
            throw new IllegalStateException("a part of a long record could not be taken before (too little heap?): read the input again");
        }
    }

    /**
     * Takes a part, which is released.
     *
     * @param continues whether the bytes go on from the last part
     * @param more whether they go on in the next
     * @return whether it was the last: the block is the record now
     */
    boolean add(Block block, boolean continues, boolean more, Source source) {
        check();
        broken = true; // until it is in
        Key key = new Key(block.attempt(), block.partition());
        Open record = open.remove(key);
        if (continues != (record != null)) {
            throw new IllegalStateException("a part of a long record does not follow the one before it");
        }
        if (record == null) {
            record = new Open();
        }
        int length = (int) block.length();
        boolean first = record.length == 0;
        record.room(length);
        source.take(block.id(), record.bytes, record.length);
        record.length += length;
        record.records += block.records();
        record.stored += block.storedBytes();
        if (first && lengths && length >= Integer.BYTES) {
            long all = Integer.BYTES + (long) ByteBuffer.wrap(record.bytes).order(ByteOrder.nativeOrder()).getInt();
            if (all > length && all <= LONGEST) {
                record.bytes = Arrays.copyOf(record.bytes, (int) all);
            }
        }
        if (more) {
            open.put(key, record);
        } else {
            block.fill(record.bytes, record.length, record.records, record.stored);
        }
        broken = false;
        return !more;
    }

    private static final class Open {
        private byte[] bytes = new byte[0];
        private int length;
        private int records;
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

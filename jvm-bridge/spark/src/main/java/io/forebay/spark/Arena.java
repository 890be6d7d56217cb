package io.forebay.spark;

import io.forebay.core.MapOutputWriter;
import org.apache.spark.unsafe.Platform;

/**
 * Fills a writer's arena: records from its start upwards, back to back, entries from its end
 * downwards (layout: {@code MapOutputWriter}). When records and entries would meet, the arena is
 * pushed and filled anew. Its size is fixed, whatever the number of partitions.
 *
 * <p>Spark's memory manager and the process's native memory decide step by step how far the arena
 * is filled: with less memory it is pushed earlier. One step is always granted.
 *
 * <p>Consistent between any two calls: Spark may ask for an early push whenever the task computes
 * its next record.
 */
final class Arena {
    /**
     * Bytes in front of an UnsafeRow: its length. Read by {@link RowIterator} on a machine with the
     * same byte order.
     */
    static final int LENGTH = 4;

    private static final int ENTRY = 8;

    private static final int PART = MapOutputWriter.PART;
    private static final int STEPS = 8;

    /** Longest step: what a task takes however little there is. */
    private static final long STEP = 2 << 20;

    /** Where records go. */
    interface Output {
        /** Pushes the records in the arena, which may be used again afterwards. */
        void flush(int records, long dataBytes);

        /**
         * Whether the process has room for so many bytes of the arena; {@code must}: they are used
         * all the same.
         */
        boolean grow(long bytes, boolean must);

        /** Pushes the first bytes of an array as a part of one byte string. */
        void part(int partition, byte[] bytes, int length, int records, boolean more);

        /** Pushes one byte string, whole. */
        void block(int partition, byte[] bytes, int offset, int length, int records);
    }

    /** Source of memory in Spark's account. */
    interface Memory {
        /** Whether all of it was given; nothing is taken if not. */
        boolean claim(long bytes);
    }

    private final long base;
    private final long bytes;
    private final long step;
    private final Output output;
    private final Memory memory;

    /** Where the next record begins. */
    private long data;

    /** The entry that was written last. */
    private long entry;

    private int records;

    /**
     * Most that records and entries may take together; grows by steps up to the size of the arena.
     */
    private long limit;

    /** Granted bytes not yet used. */
    private long room;

    Arena(long base, long bytes, Output output, Memory memory) {
        this.base = base;
        this.bytes = bytes;
        this.step = Math.min(STEP, bytes / STEPS);
        this.output = output;
        this.memory = memory;
        restart();
    }

    /** Copies an UnsafeRow, with its length before it. */
    void row(int partition, Object object, long offset, int length) {
        long need = (long) LENGTH + length + ENTRY;
        if (need > room && !makeRoom(need)) {
            giant(partition, object, offset, length);
            return;
        }
        Platform.putInt(null, data, length);
        Platform.copyMemory(object, offset, null, data + LENGTH, length);
        add(partition, LENGTH + length, need);
    }

    /** Pushes a row past the arena, without a second copy of all of it. */
    private void giant(int partition, Object object, long offset, int length) {
        byte[] part = new byte[(int) Math.min(PART, (long) LENGTH + length)];
        Platform.putInt(part, Platform.BYTE_ARRAY_OFFSET, length);
        int filled = LENGTH;
        int done = 0;
        boolean more;
        do {
            int n = Math.min(part.length - filled, length - done);
            Platform.copyMemory(object, offset + done, part, Platform.BYTE_ARRAY_OFFSET + filled, n);
            done += n;
            more = done < length;
            output.part(partition, part, filled + n, more ? 0 : 1, more);
            filled = 0;
        } while (more);
    }

    /** Copies a serialised record. */
    void record(int partition, byte[] serialised, int length) {
        long need = (long) length + ENTRY;
        if (need > room && !makeRoom(need)) {
            output.block(partition, serialised, 0, length, 1);
            return;
        }
        Platform.copyMemory(serialised, Platform.BYTE_ARRAY_OFFSET, null, data, length);
        add(partition, length, need);
    }

    private void add(int partition, long length, long need) {
        entry -= ENTRY;
        Platform.putLong(null, entry, (long) partition << 32 | data - base);
        data += length;
        records++;
        room -= need;
    }

    /** Pushes what is there. */
    void flush() {
        if (records > 0) {
            output.flush(records, data - base);
        }
        restart();
    }

    /**
     * Pushes the content because Spark needs the memory; called before the memory is returned.
     */
    void shrink() {
        flush();
        limit = 0;
        room = 0;
    }

    private void restart() {
        data = base;
        entry = base + bytes;
        records = 0;
        room = limit;
    }

    /** False if the record is too long for the arena. */
    private boolean makeRoom(long need) {
        if (need > bytes) {
            return false;
        }
        while (need > room) {
            long more = Math.min(step, bytes - limit);
            boolean must = records == 0;
            if (more > 0 && output.grow(limit + more, must) && (memory.claim(more) || must)) {
                limit += more;
                room += more;
            } else {
                flush();
            }
        }
        return true;
    }
}

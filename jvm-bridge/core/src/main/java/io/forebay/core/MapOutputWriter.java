package io.forebay.core;

import java.util.Collections;
import java.util.List;

/**
 * The output of one map attempt. For one thread at a time; {@link #close} frees the arena, so only
 * the thread that writes into the arena may close.
 *
 * <p>The caller writes records from {@link #arenaAddress} upwards, back to back, and for record
 * {@code i} the entry {@code (partition << 32) | offset} as a native-endian long at
 * {@code arenaAddress + arenaBytes - 8 * (i + 1)}. A record ends where the next begins. When
 * records and entries would meet, it calls {@link #flush} and starts again.
 */
public final class MapOutputWriter implements AutoCloseable {
    /** Length of a part of a long byte string: many blocks, and little beside an arena. */
    public static final int PART = 1 << 20;

    private final long id;
    private final long address;
    private final long bytes;
    private final InterruptCheck interrupt;
    private boolean broken;
    private boolean closed;
    private long[] lastStats = new long[4];
    private List<ServerStats> lastServers = Collections.emptyList();

    MapOutputWriter(long id, long address, long bytes, InterruptCheck interrupt) {
        this.id = id;
        this.address = address;
        this.bytes = bytes;
        this.interrupt = interrupt;
    }

    public long arenaAddress() {
        return address;
    }

    public long arenaBytes() {
        return bytes;
    }

    /**
     * Whether as much of the arena may be filled, records and entries together. If not,
     * {@link #flush} earlier.
     *
     * @param must it will be filled all the same: a record has to go somewhere
     */
    public boolean grow(long bytes, boolean must) {
        return Native.writerGrow(id, bytes, must);
    }

    /**
     * Sorts the arena's records by partition and hands them to the connection; waits for
     * back-pressure of the servers. On return the arena is free again from its start; after an
     * exception it must not be used any more.
     *
     * @param records number of entries
     * @param dataBytes end of the last record
     */
    public void flush(int records, long dataBytes) {
        if (records > 0) {
            Wait.until(interrupt, timeout -> Native.writerFlush(id, records, dataBytes, timeout));
        }
    }

    /**
     * Sends a byte string in one piece: a closed serialisation stream, or a record longer than the
     * arena. The arena is not touched: if the order matters, the caller flushes before. Waits for
     * back-pressure of the servers; on return the bytes may be changed.
     *
     * @param records records in it
     */
    public void block(int partition, byte[] bytes, int offset, int length, int records) {
        check();
        // A long one goes to the native side in parts, which has no memory for all of it.
        int sent = 0;
        while (length - sent > PART) {
            part(partition, bytes, offset + sent, PART, records, true);
            sent += PART;
        }
        if (sent > 0) {
            part(partition, bytes, offset + sent, length - sent, records, false);
        } else if (!Native.writerBlock(id, partition, bytes, offset, length, records, false)) {
            drain();
        }
    }

    /**
     * Sends a byte string as {@link #block} does, a part of it at a time: {@code more} with every
     * part but the last, which has the {@code records}.
     */
    public void part(int partition, byte[] bytes, int offset, int length, int records, boolean more) {
        check();
        broken = true; // until the call is through
        if (!Native.writerPart(id, partition, bytes, offset, length, records, more)) {
            drain();
        }
        broken = false;
    }

    /** Who tries a long byte string again would go on in the middle of its first try. */
    private void check() {
        if (broken) {
            throw new IllegalStateException("a part of a long byte string failed before: nothing can be added, write the output again");
        }
    }

    /**
     * Adds a frame of another engine: bytes that say by themselves where they end, and are not
     * worth compressing. Packed into blocks with others of its partition; a reader gets whole
     * frames, those of one output and partition in the order of this call. Waits for back-pressure
     * of the servers; on return the bytes may be changed.
     *
     * @param records rows in it
     */
    public void frame(int partition, byte[] bytes, int offset, int length, int records) {
        if (!Native.writerBlock(id, partition, bytes, offset, length, records, true)) {
            drain();
        }
    }

    /** Waits until the connection has room for more. */
    public void drain() {
        Wait.until(interrupt, timeout -> Native.writerDrain(id, timeout));
    }

    /** Sends what is left, and waits for the commit. The arena must have been flushed. */
    public CommittedOutput commit() {
        check();
        long[] lengths;
        while ((lengths = Native.writerCommit(id, Wait.SLICE_MILLIS)) == null) {
            interrupt.check();
        }
        return new CommittedOutput(lengths, Native.writerLocation(id));
    }

    /** Counters so far; final after {@link #close}. */
    public Stats stats() {
        if (!closed) {
            lastStats = Native.writerStats(id);
        }
        return new Stats(lastStats);
    }

    /** The servers so far; final after {@link #close}. */
    public List<ServerStats> servers() {
        if (!closed) {
            lastServers = ServerStats.parse(Native.writerServers(id));
        }
        return lastServers;
    }

    /**
     * Frees writer and arena; an uncommitted output is aborted. Closing twice does nothing.
     */
    @Override
    public void close() {
        if (!closed) {
            try {
                lastServers = ServerStats.parse(Native.writerServers(id));
                lastStats = Native.writerStats(id);
            } catch (ForebayException e) {
                // A writer that panicked has no counters, and is closed all the same.
            } finally {
                closed = true;
                Native.writerClose(id);
            }
        }
    }

    /** Counters of a writer. */
    public static final class Stats {
        private final long[] values;

        Stats(long[] values) {
            this.values = values;
        }

        /** Stored bytes: after compression. */
        public long bytes() {
            return values[0];
        }

        public long records() {
            return values[1];
        }

        /** Time spent waiting for servers. */
        public long waitNanos() {
            return values[2];
        }

        /** How often the output was sent again from its start. */
        public long resends() {
            return values[3];
        }
    }
}

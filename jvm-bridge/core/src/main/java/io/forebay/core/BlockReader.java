package io.forebay.core;

import java.util.Collections;
import java.util.List;

/**
 * The input of one reduce task: verified, decoded blocks of whole records. Blocks of different
 * outputs come in no particular order, blocks of one output and partition in the order of writing.
 * For one thread at a time.
 *
 * <p>The memory of a block is native and lives until {@link #release} or {@link #close}, whichever
 * comes first.
 */
public final class BlockReader implements AutoCloseable {
    private static final int FIELDS = 8;

    private final long id;
    private final InterruptCheck interrupt;
    private final long[] fields = new long[FIELDS];
    private boolean closed;
    private long[] lastStats = new long[4];
    private List<ServerStats> lastServers = Collections.emptyList();

    BlockReader(long id, InterruptCheck interrupt) {
        this.id = id;
        this.interrupt = interrupt;
    }

    /**
     * Waits for the next block.
     *
     * @param block filled in
     * @return false when everything that was asked for has been delivered and verified
     * @throws ForebayException with {@link ForebayException#volume} if an output cannot be read
     */
    public boolean next(Block block) {
        return next(block, interrupt);
    }

    /** The same with another check while it waits. */
    public boolean next(Block block, InterruptCheck interrupt) {
        int answer;
        while ((answer = Native.readerNext(id, Wait.SLICE_MILLIS, fields)) == 0) {
            interrupt.check();
        }
        if (answer < 0) {
            return false;
        }
        block.fill(fields);
        return true;
    }

    /** Frees the memory of a block. It must not be touched any more. */
    public void release(Block block) {
        Native.readerRelease(id, block.id);
        block.clear();
    }

    /** Counters so far; final after {@link #close}. */
    public Stats stats() {
        if (!closed) {
            lastStats = Native.readerStats(id);
        }
        return new Stats(lastStats);
    }

    /** The servers so far; final after {@link #close}. */
    public List<ServerStats> servers() {
        if (!closed) {
            lastServers = ServerStats.parse(Native.readerServers(id));
        }
        return lastServers;
    }

    /**
     * Ends the fetches and frees everything but lent blocks. {@link #next} fails afterwards, unless
     * the end or a failure came before.
     */
    public void cut() {
        if (!closed) {
            Native.readerCut(id);
        }
    }

    /** Frees the reader and all its blocks. Closing twice does nothing. */
    @Override
    public void close() {
        if (!closed) {
            try {
                lastServers = ServerStats.parse(Native.readerServers(id));
                lastStats = Native.readerStats(id);
            } catch (ForebayException e) {
                // A reader that panicked has no counters, and is closed all the same.
            } finally {
                closed = true;
                Native.readerClose(id);
            }
        }
    }

    /** A view of one block, reused for the next. */
    public static final class Block {
        private long address;
        private long length;
        private int records;
        private int partition;
        private int mapIndex;
        private long attempt;
        private long id;
        private long storedBytes;

        void fill(long[] fields) {
            address = fields[0];
            length = fields[1];
            records = (int) fields[2];
            partition = (int) fields[3];
            mapIndex = (int) fields[4];
            attempt = fields[5];
            id = fields[6];
            storedBytes = fields[7];
        }

        void clear() {
            address = 0;
            length = 0;
            records = 0;
            id = 0;
        }

        /** Where its bytes are; 0 once released. */
        public long address() {
            return address;
        }

        public long length() {
            return length;
        }

        public int records() {
            return records;
        }

        public int partition() {
            return partition;
        }

        public int mapIndex() {
            return mapIndex;
        }

        public long attempt() {
            return attempt;
        }

        /** Bytes as they were stored and sent. */
        public long storedBytes() {
            return storedBytes;
        }
    }

    /** Counters of a reader. */
    public static final class Stats {
        private final long[] values;

        Stats(long[] values) {
            this.values = values;
        }

        /** Stored bytes of the blocks that were delivered. */
        public long bytes() {
            return values[0];
        }

        public long blocks() {
            return values[1];
        }

        /** Time spent waiting for servers. */
        public long waitNanos() {
            return values[2];
        }

        /** How often a stream was taken up again. */
        public long resumes() {
            return values[3];
        }
    }
}

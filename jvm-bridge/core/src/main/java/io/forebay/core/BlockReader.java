package io.forebay.core;

import java.util.Collections;
import java.util.List;

/**
 * The input of one reduce task: verified, decoded blocks of whole records. Blocks of different
 * outputs come in no particular order, blocks of one output and partition in the order of writing.
 * For one thread at a time.
 *
 * <p>The memory of a block is native and lives until {@link #release} or {@link #close}, whichever
 * comes first; but a record longer than a block is on the heap ({@link Block#heap}), where the
 * executor has room for long records.
 */
public final class BlockReader implements AutoCloseable {
    private static final int FIELDS = 9;
    private static final long CONTINUES = 1;
    private static final long CONTINUED = 2;

    private final long id;
    private final InterruptCheck interrupt;
    private final long[] fields = new long[FIELDS];
    private final LongRecords longRecords = new LongRecords();
    private final LongRecords.Source source;
    private boolean closed;
    private long[] lastStats = new long[4];
    private List<ServerStats> lastServers = Collections.emptyList();

    BlockReader(long id, InterruptCheck interrupt) {
        this.id = id;
        this.source = (block, target, offset) -> Native.readerTake(id, block, target, offset);
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
        longRecords.check();
        while (true) {
            int answer;
            while ((answer = Native.readerNext(id, Wait.SLICE_MILLIS, fields)) == 0) {
                interrupt.check();
            }
            if (answer < 0) {
                return false;
            }
            block.fill(fields);
            long part = fields[8];
            if (part == 0 || longRecords.add(block, (part & CONTINUES) != 0, (part & CONTINUED) != 0, source)) {
                return true;
            }
        }
    }

    /**
     * Tells that a record begins with its length, in bytes that follow, as an int in the machine's
     * order: so much is taken for a long one at once.
     */
    public BlockReader recordsHaveLengths() {
        longRecords.haveLengths();
        return this;
    }

    /** Frees the memory of a block. It must not be touched any more. */
    public void release(Block block) {
        if (block.id != 0) {
            Native.readerRelease(id, block.id);
        }
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
        private byte[] heap;

        void fill(long[] fields) {
            heap = null;
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
            heap = null;
        }

        /** Its bytes are on the heap from now on. */
        void fill(byte[] bytes, int count, int recordCount, long stored) {
            heap = bytes;
            records = recordCount;
            address = 0;
            length = count;
            id = 0;
            storedBytes = stored;
        }

        long id() {
            return id;
        }

        /** Whether it was filled and not released. */
        public boolean isHeld() {
            return address != 0 || heap != null;
        }

        /** Its bytes, in the first {@link #length} of these; null if they are native memory. */
        public byte[] heap() {
            return heap;
        }

        /** Where its bytes are; 0 once released, and if they are on the heap. */
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

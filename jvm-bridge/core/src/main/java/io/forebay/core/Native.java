package io.forebay.core;

/**
 * Every native method, and nothing else. The client behind them is the Rust crate
 * {@code shuffle-client}; how the library is found and loaded is in {@link NativeLibrary}.
 *
 * <p><b>Handles</b> are ids of a table on the native side, never addresses: a closed or invented id
 * throws, and does not crash. Closing twice does nothing. A handle is for one thread at a time;
 * {@code close} may come from any thread.
 *
 * <p><b>Waiting.</b> A method with {@code timeoutMillis} returns a "not yet" value after that time,
 * and the same thread calls again after a look at its interrupt flag. No native call waits longer,
 * and native threads never call Java.
 *
 * <p><b>Memory.</b> The arena of a writer and the blocks of a reader belong to the native side.
 * Java may touch an arena from {@link #writerOpen} until {@link #writerClose}, except while
 * {@link #writerFlush} has not returned true, and a block from {@link #readerNext} until
 * {@link #readerRelease}, {@link #readerTake} or {@link #readerClose}.
 *
 * <p><b>Errors</b> are {@link ForebayException}, which carries the kind and, where there is one,
 * the lost output.
 */
final class Native {
    private Native() {}

    /** Version of the native library, compared with the jar's: {@code 0.1.0}. */
    static native String version();

    /**
     * Missing features of the CPU: bits as in {@link Cpu}. Must be the first call.
     */
    static native int missingCpu();

    /** Panics with this message, for the test of exceptions after a panic. */
    static native void panic(String message);

    /**
     * From now on what the native side logs waits for {@link #logLines} instead of going to
     * standard error.
     */
    static native void logToJava();

    /**
     * Lines logged by the native side since the call before; waits for the first line.
     *
     * @return level, origin and text of each line, one after the other
     */
    static native String[] logLines(int timeoutMillis);

    // ---- client: one per JVM ----

    /**
     * Makes a client. Does no I/O.
     *
     * @param settings JSON object with the fields of {@code ClientSettings} in
     *     jvm-bridge/native/src/settings.rs; an unknown field or a bad value is an error that names
     *     it
     * @param key what blocks are encrypted with, 16 to 64 bytes, or null = they are not encrypted;
     *     copied before this returns
     */
    static native long clientOpen(String settings, byte[] key);

    static native void clientClose(long client);

    // ---- app: on the driver ----

    /**
     * Starts to register the app with all servers that answer (at least one, before the deadline).
     * The lease is renewed until {@link #appClose} or {@link #clientClose}.
     *
     * @return call for {@link #callWait}
     */
    static native long appOpen(long client, String app, String token, long leaseMillis);

    /**
     * The token with which tasks of an open app call the servers now: the newest that the servers
     * have made for its driver, or the driver's own.
     */
    static native String appToken(long client, String app);

    /**
     * Chooses the candidate servers of a shuffle, in the order of map indexes. Asks no server: the
     * lease keeps their descriptions fresh.
     *
     * @return addresses, {@code host:port}
     */
    static native String[] appPlace(long client, String app, int shuffle, int numMaps, int numPartitions);

    /**
     * Descriptions of an app's servers from their last answers: lines for {@link ServerView}. Asks
     * no server.
     */
    static native String[] appServers(long client, String app);

    /**
     * Starts to ask all servers of the settings, and the given ones, for their descriptions. Takes
     * a second at most.
     *
     * @return call for {@link #callWait}, and then {@link #callLines} for lines of
     *     {@link ServerView}
     */
    static native long appLook(long client, String app, String[] more);

    /**
     * Starts to delete a shuffle on every server that can be reached now. The lease takes care of
     * the others.
     *
     * @return call for {@link #callWait}
     */
    static native long appDeleteShuffle(long client, String app, int shuffle);

    /**
     * Stops renewing the app's lease and starts to delete the app on every reachable server.
     *
     * @return call for {@link #callWait}
     */
    static native long appClose(long client, String app);

    /**
     * Waits for a call that was started.
     *
     * @return true when it has succeeded, false to be called again
     */
    static native boolean callWait(long call, int timeoutMillis);

    /** The answer of a successful call; empty before, and for calls without one. */
    static native String[] callLines(long call);

    /** Forgets the call; the started work goes on. */
    static native void callClose(long call);

    // ---- writer: one map attempt ----

    /**
     * Starts the output of a map attempt; connects in the background.
     *
     * <p>The arena: the caller writes records from its start upwards, back to back, and for record
     * {@code i} the entry {@code (partition << 32) | offset} as a native-endian long at
     * {@code address + size - 8 * (i + 1)}. A record ends where the next begins. Records and
     * entries must not overlap.
     *
     * @param candidates addresses, in the order of {@link #appPlace}
     * @param durability memory, disk, fsync, mirror or object
     * @param compression how blocks are compressed: none, lz4, zstd or zstd:LEVEL
     * @param arenaBytes size of the arena; the native side may hand out a recycled one of exactly
     *     this size
     */
    static native long writerOpen(
            long client,
            String app,
            String token,
            long leaseMillis,
            int shuffle,
            int numMaps,
            int numPartitions,
            int mapIndex,
            long attempt,
            String durability,
            String[] candidates,
            String compression,
            long arenaBytes);

    /** Address of the writer's arena. */
    static native long writerArena(long writer);

    /**
     * Sorts the arena's records by partition, builds blocks and hands them to the connection.
     *
     * @param records number of entries
     * @param dataBytes end of the last record
     * @return true when the arena may be used again, false to be called again with the same
     *     arguments
     */
    static native boolean writerFlush(long writer, int records, long dataBytes, int timeoutMillis);

    /**
     * Sends a byte string in one piece: a closed serialisation stream, or a record longer than the
     * arena. The bytes are taken before the return, even if the return value is false.
     *
     * @param packed whether it may share a block with others of its partition, and waits for them;
     *     such bytes must say by themselves where they end
     * @return true when the next call may follow, false to wait with {@link #writerDrain} first
     */
    static native boolean writerBlock(
            long writer, int partition, byte[] bytes, int offset, int length, int records, boolean packed);

    /**
     * Sends a part of a byte string, so that the native side never has it in one piece: the next
     * call, if there is {@code more}, is for the next part.
     *
     * @param records records in the whole string, with its last part
     * @return as {@link #writerBlock}
     */
    static native boolean writerPart(
            long writer, int partition, byte[] bytes, int offset, int length, int records, boolean more);

    /** Waits until the connection has room for more. */
    static native boolean writerDrain(long writer, int timeoutMillis);

    /**
     * Sends what is left and commits.
     *
     * @return stored bytes per partition (0 only where nothing was written), or null to be called
     *     again
     */
    static native long[] writerCommit(long writer, int timeoutMillis);

    /**
     * Where the committed output is: {@code volume@host:port}, at level mirror two of them with a
     * {@code +} in between.
     */
    static native String writerLocation(long writer);

    /**
     * Asks for more of the arena, records and entries together: all writers of the process share
     * the memory for arenas.
     *
     * @param must it will be filled, whether there is room or not
     */
    static native boolean writerGrow(long writer, long bytes, boolean must);

    /**
     * Counters of this writer: stored bytes, records, nanoseconds spent waiting for the servers,
     * re-sent outputs.
     */
    static native long[] writerStats(long writer);

    /**
     * Work of each server for this writer: per server a line with address, stored bytes, blocks,
     * failed tries and the reason of the last failure, between tabs. From any thread.
     */
    static native String writerServers(long writer);

    /** Frees writer and arena; an uncommitted output is aborted. */
    static native void writerClose(long writer);

    // ---- reader: one reduce task ----

    /**
     * Starts to read the blocks of partitions {@code [partitionStart, partitionEnd)} of exactly the
     * outputs named.
     *
     * @param mapStart first map index of the range asked for
     * @param mapEnd end of it, exclusive; {@code Integer.MAX_VALUE} = no bound
     * @param locations distinct, as {@code writerLocation} gives them
     * @param outputLocation per output, index into {@code locations}
     * @param outputMapIndex per output
     * @param outputAttempt per output
     * @param partitionCounts per output, how many of the partitions have data
     * @param partitions the partitions with data, output by output, each output's ascending
     * @param windowBytes most bytes in flight over all servers, or 0 for the client's setting
     */
    static native long readerOpen(
            long client,
            String app,
            String token,
            long leaseMillis,
            int shuffle,
            int partitionStart,
            int partitionEnd,
            int mapStart,
            int mapEnd,
            String[] locations,
            int[] outputLocation,
            int[] outputMapIndex,
            long[] outputAttempt,
            int[] partitionCounts,
            int[] partitions,
            long windowBytes);

    /**
     * The next verified and decoded block.
     *
     * @param block filled with: 0 address, 1 length, 2 records, 3 partition, 4 map index, 5
     *     attempt, 6 id for {@link #readerRelease}, 7 stored bytes, 8 part: 0 whole records, + 1 the
     *     bytes go on from the last block of this output and partition, + 2 they go on in the next
     * @return 1 with a block, 0 to be called again, -1 when everything that was asked for has been
     *     delivered and verified
     */
    static native int readerNext(long reader, int timeoutMillis, long[] block);

    /** Copies a block to the heap and releases it. */
    static native void readerTake(long reader, long block, byte[] target, int offset);

    static native void readerRelease(long reader, long block);

    /**
     * Counters of this reader: stored bytes, blocks, nanoseconds spent waiting, resumed streams.
     */
    static native long[] readerStats(long reader);

    /** As {@link #writerServers}, for this reader. */
    static native String readerServers(long reader);

    /**
     * Frees everything but the blocks that are lent and the counters; fetches are cut. From any
     * thread.
     */
    static native void readerCut(long reader);

    static native void readerClose(long reader);
}

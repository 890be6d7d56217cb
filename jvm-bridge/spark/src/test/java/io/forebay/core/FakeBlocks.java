package io.forebay.core;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Queue;
import org.apache.spark.unsafe.Platform;

/**
 * Native memory with made-up blocks in it, where no native library is needed. Knows which blocks
 * are lent.
 */
public final class FakeBlocks implements AutoCloseable {
    private final Queue<long[]> waiting = new ArrayDeque<>();
    private final Map<Long, Long> lent = new HashMap<>();
    private final Map<Long, Long> lengths = new HashMap<>();
    private final Map<Long, byte[]> onHeap = new HashMap<>();
    private long ids;
    private RuntimeException failure;
    private boolean cut;
    private boolean closed;

    /** Adds a block with these bytes. */
    public FakeBlocks add(int records, byte[] bytes) {
        long address = Platform.allocateMemory(Math.max(1, bytes.length));
        Platform.copyMemory(bytes, Platform.BYTE_ARRAY_OFFSET, null, address, bytes.length);
        waiting.add(new long[] {address, bytes.length, records, 0, 5, 55, ++ids, bytes.length});
        return this;
    }

    /** Adds a record that is longer than a block: on the heap, in an array that is longer still. */
    public FakeBlocks addLong(int records, byte[] bytes) {
        waiting.add(new long[] {0, bytes.length, records, 0, 5, 55, ++ids, bytes.length});
        onHeap.put(ids, Arrays.copyOf(bytes, bytes.length + 7));
        return this;
    }

    /** What comes after the blocks that were added is this. */
    public FakeBlocks fail(RuntimeException thrown) {
        failure = thrown;
        return this;
    }

    public boolean next(BlockReader.Block block) {
        if (cut || closed) {
            throw new AssertionError("asked for a block after it was cut");
        }
        long[] fields = waiting.poll();
        if (fields == null && failure != null) {
            throw failure;
        }
        if (fields == null) {
            return false;
        }
        block.fill(fields);
        if (fields[0] == 0) {
            block.fill(onHeap.remove(fields[6]), (int) fields[1], (int) fields[2], fields[7]);
            return true;
        }
        lent.put(fields[0], fields[6]);
        lengths.put(fields[0], fields[1]);
        return true;
    }

    public void release(BlockReader.Block block) {
        if (block.heap() != null) {
            block.clear();
            return;
        }
        if (closed || lent.remove(block.address()) == null) {
            throw new AssertionError("released twice, or after everything was freed");
        }
        free(block.address());
        block.clear();
    }

    private void free(long address) {
        // What reads it afterwards gets nonsense, and the test notices.
        Platform.setMemory(null, address, lengths.get(address), (byte) 0x55);
        Platform.freeMemory(address);
    }

    /** Makes the view of one block. */
    public static void fill(BlockReader.Block block, long address, long length, int records) {
        block.fill(new long[] {address, length, records, 0, 0, 0, 1, length});
    }

    /** How many blocks may be looked at now. */
    public int lent() {
        return lent.size();
    }

    public boolean isCut() {
        return cut;
    }

    public boolean isClosed() {
        return closed;
    }

    public void cut() {
        cut = true;
    }

    @Override
    public void close() {
        closed = true;
        lent.keySet().forEach(this::free);
        lent.clear();
        waiting.forEach(fields -> Platform.freeMemory(fields[0])); // nothing where it is 0
        waiting.clear();
    }
}

package io.forebay.core;

import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.Map;
import java.util.Queue;
import org.apache.spark.unsafe.Platform;

/** Native memory with made-up blocks in it, where no native library is needed. Knows which blocks are lent. */
public final class FakeBlocks implements AutoCloseable {
    private final Queue<long[]> waiting = new ArrayDeque<>();
    private final Map<Long, Long> lent = new HashMap<>();
    private long ids;

    /** Adds a block with these bytes. */
    public FakeBlocks add(int records, byte[] bytes) {
        long address = Platform.allocateMemory(Math.max(1, bytes.length));
        Platform.copyMemory(bytes, Platform.BYTE_ARRAY_OFFSET, null, address, bytes.length);
        waiting.add(new long[] {address, bytes.length, records, 0, 5, 55, ++ids, bytes.length});
        return this;
    }

    public boolean next(BlockReader.Block block) {
        long[] fields = waiting.poll();
        if (fields == null) {
            return false;
        }
        lent.put(fields[0], fields[6]);
        block.fill(fields);
        return true;
    }

    public void release(BlockReader.Block block) {
        if (lent.remove(block.address()) == null) {
            throw new AssertionError("released twice");
        }
        // What reads it afterwards gets nonsense, and the test notices.
        Platform.setMemory(null, block.address(), block.length(), (byte) 0x55);
        Platform.freeMemory(block.address());
        block.clear();
    }

    /** How many blocks may be looked at now. */
    public int lent() {
        return lent.size();
    }

    @Override
    public void close() {
        lent.keySet().forEach(Platform::freeMemory);
        waiting.forEach(fields -> Platform.freeMemory(fields[0]));
    }
}

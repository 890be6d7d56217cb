package io.forebay.spark;

import io.forebay.core.BlockReader.Block;

/**
 * Blocks of whole records, one after the other, for iterators over records.
 *
 * <p>The bytes of a block are native memory that goes when the task ends, whatever other threads
 * are doing. So only the task's own thread may look at them where they lie; every other thread has
 * them copied to the heap by {@link #copy} or {@link #take}, which and the end of the task exclude
 * each other (invariant: rows-outlive-no-memory).
 */
interface Blocks {
    /**
     * Waits for the next block that has records. After a failure it fails in the same way for ever,
     * and never says that there is no more.
     *
     * @return false when everything has been delivered and verified
     * @throws IllegalStateException if the task has ended
     */
    boolean next(Block block);

    /** Frees the memory of a block; nothing if that was done when the task ended. */
    void release(Block block);

    /**
     * Copies bytes of a block that is lent.
     *
     * @throws IllegalStateException if the task has ended
     */
    void copy(long address, byte[] target, int offset, int length);

    /** Copies the bytes of a native block from {@code address} up to the end of the block, and frees it. */
    default byte[] take(Block block, long address) {
        byte[] bytes = new byte[Math.toIntExact(block.address() + block.length() - address)];
        copy(address, bytes, 0, bytes.length);
        release(block);
        return bytes;
    }

    /**
     * What the blocks hold is not what they say: gives everything back, and every later
     * {@link #next} fails with this.
     *
     * @return the same
     */
    <E extends Throwable> E fail(E failure);

    /** Takes note of records that were handed out. */
    void countRecords(long records);
}

package io.forebay.spark;

import io.forebay.core.BlockReader.Block;

/** Blocks of whole records, one after the other, as the iterators over records see them. */
interface Blocks {
    /**
     * Waits for the next block that has records.
     *
     * @return false when everything has been delivered and verified
     */
    boolean next(Block block);

    /** Frees the memory of a block. */
    void release(Block block);

    /** Takes note of records that were handed out. */
    void countRecords(long records);
}

package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import io.forebay.core.FakeBlocks;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** {@link FakeBlocks} as the iterators see them. */
final class BlocksForTests implements Blocks, AutoCloseable {
    final FakeBlocks blocks = new FakeBlocks();
    long counted;

    /** Adds a block of rows, each with one long in it. */
    BlocksForTests rows(long... values) {
        ByteBuffer bytes = ByteBuffer.allocate(values.length * 20).order(ByteOrder.nativeOrder());
        for (long value : values) {
            bytes.putInt(16).putLong(0).putLong(value);
        }
        blocks.add(values.length, bytes.array());
        return this;
    }

    @Override
    public boolean next(Block block) {
        return blocks.next(block);
    }

    @Override
    public void release(Block block) {
        blocks.release(block);
    }

    @Override
    public void countRecords(long records) {
        counted += records;
    }

    @Override
    public void close() {
        blocks.close();
    }
}

package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import io.forebay.core.FakeBlocks;
import io.forebay.core.InterruptCheck;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.executor.TempShuffleReadMetrics;
import scala.collection.Iterator$;

/** {@link FakeBlocks} as the iterators see them: through a {@link BlockSource}. */
final class BlocksForTests implements Blocks, BlockSource.Owner, AutoCloseable {
    final FakeBlocks blocks = new FakeBlocks();
    final TempShuffleReadMetrics metrics = new TempShuffleReadMetrics();
    final List<BlockSource.Input> left = new ArrayList<>();

    /** What happens when a block is asked for. */
    Runnable asked = () -> {};

    private final MapOutputs outputs =
            new MapOutputs(0, new ReadRange(0, 1, 0, 1), false, (scala.collection.Iterator<?>) Iterator$.MODULE$.empty());
    final BlockSource source = new BlockSource(new Native(), outputs, () -> {}, metrics, this);

    /** Adds a block of rows, each with one long in it. */
    BlocksForTests rows(long... values) {
        blocks.add(values.length, bytes(values));
        return this;
    }

    /** Adds a row as one that is longer than a block comes. */
    BlocksForTests longRow(long value) {
        blocks.addLong(1, bytes(value));
        return this;
    }

    private static byte[] bytes(long... values) {
        ByteBuffer bytes = ByteBuffer.allocate(values.length * 20).order(ByteOrder.nativeOrder());
        for (long value : values) {
            bytes.putInt(16).putLong(0).putLong(value);
        }
        return bytes.array();
    }

    long counted() {
        return metrics.recordsRead();
    }

    // --- what an iterator asks ---

    @Override
    public boolean next(Block block) {
        return source.next(block);
    }

    @Override
    public void release(Block block) {
        source.release(block);
    }

    @Override
    public void copy(long address, byte[] target, int offset, int length) {
        source.copy(address, target, offset, length);
    }

    @Override
    public <E extends Throwable> E fail(E failure) {
        return source.fail(failure);
    }

    @Override
    public void countRecords(long records) {
        source.countRecords(records);
    }

    // --- what the source asks ---

    private final class Native implements BlockSource.Input {
        @Override
        public boolean next(Block block, InterruptCheck check) {
            asked.run();
            check.check();
            return blocks.next(block);
        }

        @Override
        public void release(Block block) {
            blocks.release(block);
        }

        @Override
        public long waitedNanos() {
            return 0;
        }

        @Override
        public void cut() {
            blocks.cut();
        }

        @Override
        public void close() {
            blocks.close();
        }
    }

    @Override
    public void finished(BlockSource finished, boolean lent) {
        if (!lent) {
            finished.close();
        }
    }

    @Override
    public void left(BlockSource.Input input, long bytes) {
        left.add(input);
    }

    @Override
    public void close() {
        source.close();
        blocks.close();
    }
}

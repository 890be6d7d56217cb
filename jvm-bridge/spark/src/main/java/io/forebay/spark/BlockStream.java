package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import java.io.InputStream;
import org.apache.spark.unsafe.Platform;

/** The bytes of blocks as a stream: of one block, or of all that follow too. Frees a block when its bytes are read. */
final class BlockStream extends InputStream {
    private final Blocks source;
    private final Block block;
    private final boolean all;
    private long position;
    private long end;
    private long records;

    /**
     * @param block already filled; this stream takes it over
     * @param all whether to go on with the source's next block
     */
    BlockStream(Blocks source, Block block, boolean all) {
        this.source = source;
        this.block = block;
        this.all = all;
        begin();
    }

    private void begin() {
        position = block.address();
        end = position + block.length();
        records += block.records();
    }

    /** Records in the blocks so far. */
    long records() {
        return records;
    }

    @Override
    public int read() {
        if (!advance()) {
            return -1;
        }
        return Platform.getByte(null, position++) & 0xff;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) {
        if (length == 0) {
            return 0;
        }
        if (!advance()) {
            return -1;
        }
        int n = (int) Math.min(length, end - position);
        Platform.copyMemory(null, position, bytes, Platform.BYTE_ARRAY_OFFSET + offset, n);
        position += n;
        return n;
    }

    @Override
    public int available() {
        return (int) Math.min(Integer.MAX_VALUE, end - position);
    }

    /** False at the end. */
    private boolean advance() {
        while (position == end) {
            finish();
            if (!all || !source.next(block)) {
                return false;
            }
            begin();
        }
        return true;
    }

    /** Frees the current block, whether it has been read or not. */
    void finish() {
        if (block.address() != 0) {
            source.release(block);
        }
        position = 0;
        end = 0;
    }
}

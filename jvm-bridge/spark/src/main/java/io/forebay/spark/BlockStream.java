package io.forebay.spark;

import io.forebay.core.BlockReader.Block;
import java.io.InputStream;

/**
 * The bytes of one block, or of all following blocks, as a stream. Read from the heap, a piece at a
 * time, so any thread may read (see {@link Blocks}); a block is freed once its last piece is on the
 * heap.
 */
final class BlockStream extends InputStream {
    /** Longest piece: as long as a usual block, which is freed at once then. */
    private static final int PIECE = 80 << 10;

    private final Blocks source;
    private final Block block;
    private final boolean all;

    /** The current piece, and its rest. */
    private byte[] piece = new byte[0];

    /** The piece is a record on the heap. */
    private boolean whole;

    private int position;
    private int end;

    /** Where the next piece begins, and the end of the block. */
    private long next;

    private long blockEnd;
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
        records += block.records();
        if (block.heap() != null) {
            whole = true;
            piece = block.heap();
            position = 0;
            end = (int) block.length();
            return;
        }
        if (whole) {
            whole = false;
            piece = new byte[0]; // a long record is not kept for short ones
        }
        next = block.address();
        blockEnd = next + block.length();
    }

    /** Records in the blocks so far. */
    long records() {
        return records;
    }

    @Override
    public int read() {
        if (position == end && !advance()) {
            return -1;
        }
        return piece[position++] & 0xff;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) {
        if (length == 0) {
            return 0;
        }
        if (position == end && !advance()) {
            return -1;
        }
        int n = Math.min(length, end - position);
        System.arraycopy(piece, position, bytes, offset, n);
        position += n;
        return n;
    }

    @Override
    public int available() {
        return (int) Math.min(Integer.MAX_VALUE, end - position + (blockEnd - next));
    }

    /** Gets the next piece; false at the end. */
    private boolean advance() {
        while (next == blockEnd) {
            finish();
            if (!all || !source.next(block)) {
                return false;
            }
            begin();
            if (position < end) {
                return true;
            }
        }
        int n = (int) Math.min(PIECE, blockEnd - next);
        if (piece.length < n) {
            piece = new byte[n];
        }
        source.copy(next, piece, 0, n);
        next += n;
        position = 0;
        end = n;
        if (next == blockEnd) {
            finish();
        }
        return true;
    }

    /** Frees the current block, whether it has been read or not. */
    void finish() {
        if (block.isHeld()) {
            source.release(block);
        }
        next = 0;
        blockEnd = 0;
    }
}

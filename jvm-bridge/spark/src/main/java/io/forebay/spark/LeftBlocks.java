package io.forebay.spark;

import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Blocks of tasks that ended half way through their input, kept for a while. The last row of the
 * task's own thread lies in such a block, and the task may have passed the row on, without a copy,
 * to a thread that outlives the task: one that looks at the first row, say, before it starts a
 * reading thread. The source notices such a thread with its next row; until then the row is safe
 * here.
 *
 * <p>A row is in use for microseconds, plus the time of a full pipe. It stays good until a number
 * of further tasks have ended half way.
 */
final class LeftBlocks {
    private static final int READERS = 64;
    private static final long BYTES = 16 << 20;

    private static final Deque<LeftBlocks> KEPT = new ArrayDeque<>();
    private static long keptBytes;

    private final BlockSource.Input input;
    private final long bytes;

    private LeftBlocks(BlockSource.Input input, long bytes) {
        this.input = input;
        this.bytes = bytes;
    }

    /** Takes the input over, which has been cut, and closes it later. */
    static void keep(BlockSource.Input input, long bytes) {
        synchronized (KEPT) {
            KEPT.add(new LeftBlocks(input, bytes));
            keptBytes += bytes;
            while (KEPT.size() > READERS || keptBytes > BYTES) {
                LeftBlocks oldest = KEPT.remove();
                keptBytes -= oldest.bytes;
                oldest.input.close();
            }
        }
    }
}

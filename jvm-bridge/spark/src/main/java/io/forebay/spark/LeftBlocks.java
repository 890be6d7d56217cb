package io.forebay.spark;

import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Blocks of tasks that ended half way through their input, for a while. A row that the task's own thread was given lies in them, and a
 * task may have passed it on, without a copy, to a thread that it does not wait for: to one that looks at the first row, for example, before
 * it starts the thread that reads the others. That thread is seen with the next row that it asks for; until then it is safe here.
 *
 * <p>A row is looked at for microseconds, and may wait for a pipe in that time. Here it is good until so many more tasks have ended half way.
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

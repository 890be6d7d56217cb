package io.forebay.spark;

import java.io.IOException;
import org.apache.spark.memory.MemoryConsumer;
import org.apache.spark.memory.MemoryMode;
import org.apache.spark.memory.TaskMemoryManager;

/**
 * Reports the arena's use to Spark's memory manager. The arena is native memory and belongs into
 * {@code memoryOverhead}; it is accounted like heap because off-heap memory has no pool by default,
 * and because a task's operators then share memory as with Spark's own shuffle, whose buffer the
 * arena replaces.
 */
final class ArenaMemory extends MemoryConsumer implements Arena.Memory {
    private final Thread task = Thread.currentThread();
    private Arena arena;
    private long claimed;

    ArenaMemory(TaskMemoryManager memory) {
        super(memory, memory.pageSizeBytes(), MemoryMode.ON_HEAP);
    }

    /** Whom to ask for an early push; null = nobody any more. */
    void serve(Arena arena) {
        this.arena = arena;
    }

    @Override
    public boolean claim(long bytes) {
        long granted = acquireMemory(bytes);
        if (granted < bytes) {
            freeMemory(granted);
            return false;
        }
        claimed += granted;
        return true;
    }

    /** Gives everything back. */
    void release() {
        long bytes = claimed;
        claimed = 0;
        freeMemory(bytes);
    }

    /**
     * Pushes early. Only the task's own thread may touch the arena, and not from within: an arena
     * asking for memory is refused, and pushes then.
     */
    @Override
    public long spill(long size, MemoryConsumer trigger) throws IOException {
        if (trigger == this || arena == null || Thread.currentThread() != task) {
            return 0;
        }
        arena.shrink();
        long freed = claimed;
        release();
        return freed;
    }
}

package io.forebay.spark;

import java.io.IOException;
import org.apache.spark.memory.MemoryConsumer;
import org.apache.spark.memory.MemoryMode;
import org.apache.spark.memory.TaskMemoryManager;

/**
 * Tells Spark's memory manager how much of the arena is in use. The arena is native memory and belongs into {@code memoryOverhead}; it is
 * accounted as if it were heap because off-heap memory has no pool unless somebody gives it one, and because a task's operators then
 * leave each other room in the same way as with Spark's own shuffle, whose buffer this replaces.
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
     * Pushes early. Only the task's own thread may touch the arena, and not from within it: when the arena itself asks for memory, it is
     * told that there is none and pushes then.
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

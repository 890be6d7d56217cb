package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.BlockReader.Block;
import io.forebay.core.InterruptCheck;
import java.util.Properties;
import org.apache.spark.TaskContext;
import org.apache.spark.TaskContextImpl;
import org.apache.spark.executor.TaskMetrics$;
import org.apache.spark.executor.TempShuffleReadMetrics;
import org.apache.spark.unsafe.Platform;
import org.junit.jupiter.api.Test;
import scala.Option;
import scala.collection.Iterator$;

class TaskReadersTest {
    private final TaskContextImpl context =
            new TaskContextImpl(0, 0, 0, 77, 0, 1, null, new Properties(), null, TaskMetrics$.MODULE$.empty(), 1, null);
    private final TaskReaders readers = TaskReaders.of(context);

    private int blocksLent;
    private int open;

    /** One block of one row. */
    private final class OneBlock implements BlockSource.Input {
        private final long address = Platform.allocateMemory(16);
        private boolean given;
        private boolean closed;

        OneBlock() {
            open++;
        }

        @Override
        public boolean next(Block block, InterruptCheck check) {
            if (given) {
                return false;
            }
            given = true;
            blocksLent++;
            io.forebay.core.FakeBlocks.fill(block, address, 16, 1);
            return true;
        }

        @Override
        public void release(Block block) {
            blocksLent--;
        }

        @Override
        public long waitedNanos() {
            return 0;
        }

        @Override
        public void cut() {}

        @Override
        public void close() {
            if (!closed) {
                closed = true;
                Platform.freeMemory(address);
                open--;
            }
        }
    }

    private BlockSource source(TaskContext of) {
        MapOutputs outputs = new MapOutputs(0, new ReadRange(0, 1, 0, 1), false, (scala.collection.Iterator<?>) Iterator$.MODULE$.empty());
        BlockSource source = new BlockSource(new OneBlock(), outputs, () -> {}, new TempShuffleReadMetrics(), TaskReaders.of(of));
        TaskReaders.of(of).add(source);
        return source;
    }

    @Test
    void twentyThousandReadersInOneTaskKeepAHandful() {
        for (int i = 0; i < 20_000; i++) {
            BlockSource source = source(context);
            assertTrue(source.next(new Block()));
            assertEquals(false, source.next(new Block()));
            assertTrue(open <= 9, open + " readers are open");
        }
        context.markTaskCompleted(Option.empty());
        assertEquals(0, open);
    }

    @Test
    void readersThatAreLeftHalfWayAreClosedWhenTheTaskEnds() {
        BlockSource unasked = source(context);
        BlockSource halfWay = source(context);
        Block block = new Block();
        assertTrue(halfWay.next(block));
        halfWay.release(block);
        context.markTaskCompleted(Option.empty());
        assertEquals(0, open);
        assertThrows(IllegalStateException.class, () -> halfWay.next(block));
        assertThrows(IllegalStateException.class, () -> unasked.next(block));
    }

    @Test
    void readerOfATaskThatHasEndedIsClosedAtOnce() {
        context.markTaskCompleted(Option.empty());
        BlockSource late = source(context);
        assertEquals(0, open);
        assertThrows(IllegalStateException.class, () -> late.next(new Block()));
        assertNotSame(readers, TaskReaders.of(context));
    }

    @Test
    void onlyTheThreadThatSparkNamesForTheTaskIsTheTasks() throws Exception {
        assertNull(TaskReaders.taskThread(context));
        Thread[] found = new Thread[2];
        Thread task = new Thread(() -> found[0] = TaskReaders.taskThread(context), "Executor task launch worker for task 3.0 in stage 1.0 (TID 77)");
        Thread other = new Thread(() -> found[1] = TaskReaders.taskThread(context), "Executor task launch worker for task 3.0 in stage 1.0 (TID 7)");
        task.start();
        other.start();
        task.join();
        other.join();
        assertSame(task, found[0]);
        assertNull(found[1]);
    }
}

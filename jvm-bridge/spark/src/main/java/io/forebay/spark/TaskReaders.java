package io.forebay.spark;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.spark.TaskContext;
import org.apache.spark.util.TaskCompletionListener;

/**
 * The readers of one task, possibly thousands one after the other ({@code coalesce},
 * {@code cartesian}): closes them, and reports for all of them together. Spark sees one listener.
 *
 * <p>A finished reader is closed at once except for its last block, which a join may still point
 * into without holding the row (while its other inputs end too); a few such blocks stay until the
 * end of the task.
 */
final class TaskReaders implements TaskCompletionListener, BlockSource.Owner {
    /** Last blocks kept until the end of the task: more than the inputs of one operator. */
    private static final int LAST_BLOCKS = 8;

    /**
     * Readers after which Spark's sums over all of a task's readers, which take longer each time,
     * are left to the end of the task.
     */
    private static final int EAGER_SUMS = 100;

    private static final Map<TaskContext, TaskReaders> TASKS = new IdentityHashMap<>();

    private final TaskContext context;
    private final Set<BlockSource> open = Collections.newSetFromMap(new IdentityHashMap<>());
    private final Deque<BlockSource> lastBlocks = new ArrayDeque<>();
    private final Map<Integer, Traffic.Sum> traffic = new HashMap<>();
    private int readers;
    private boolean over;

    private TaskReaders(TaskContext context) {
        this.context = context;
    }

    /** The readers of a task, from any of its threads. */
    static TaskReaders of(TaskContext context) {
        TaskReaders readers;
        synchronized (TASKS) {
            readers = TASKS.get(context);
            if (readers != null) {
                return readers;
            }
            readers = new TaskReaders(context);
            TASKS.put(context, readers);
        }
        // Called at once if the task has ended.
        context.addTaskCompletionListener(readers);
        return readers;
    }

    /**
     * The calling thread, if the task runs and ends on it. Null otherwise: helper threads of a task
     * have its context too, and only the name that Spark gives a thread during the task tells them
     * apart.
     */
    static Thread taskThread(TaskContext context) {
        Thread thread = Thread.currentThread();
        String name = thread.getName();
        boolean runs = name.startsWith("Executor task launch worker") && name.endsWith("(TID " + context.taskAttemptId() + ")");
        return runs ? thread : null;
    }

    /** Takes a reader in, or closes it if the task has ended. */
    void add(BlockSource source) {
        synchronized (this) {
            if (!over) {
                open.add(source);
                readers++;
                return;
            }
        }
        source.close();
    }

    /** What is told of the reads of a shuffle when the task ends. */
    synchronized Traffic.Sum sum(int shuffle, Traffic of) {
        return traffic.computeIfAbsent(shuffle, first -> of.reads());
    }

    /** An iterator has come to its end. */
    void ended() {
        boolean eager;
        synchronized (this) {
            eager = readers <= EAGER_SUMS;
        }
        if (eager) {
            context.taskMetrics().mergeShuffleReadMetrics();
        }
    }

    @Override
    public void finished(BlockSource source, boolean lent) {
        BlockSource done = source;
        synchronized (this) {
            open.remove(source);
            lastBlocks.remove(source);
            if (lent && !over) {
                lastBlocks.add(source);
                done = lastBlocks.size() > LAST_BLOCKS ? lastBlocks.remove() : null;
            }
        }
        // Not under this object's lock, but under the lock of a later source, which so never waits
        // for this one.
        if (done != null) {
            done.close();
        }
    }

    @Override
    public void left(BlockSource.Input input, long bytes) {
        LeftBlocks.keep(input, bytes);
    }

    @Override
    public void onTaskCompletion(TaskContext ended) {
        synchronized (TASKS) {
            TASKS.remove(context);
        }
        List<BlockSource> rest;
        List<Traffic.Sum> sums;
        synchronized (this) {
            over = true;
            rest = new ArrayList<>(open);
            rest.addAll(lastBlocks);
            open.clear();
            lastBlocks.clear();
        }
        rest.forEach(BlockSource::close);
        context.taskMetrics().mergeShuffleReadMetrics();
        synchronized (this) {
            sums = new ArrayList<>(traffic.values());
            traffic.clear();
        }
        sums.forEach(Traffic.Sum::tell);
    }
}

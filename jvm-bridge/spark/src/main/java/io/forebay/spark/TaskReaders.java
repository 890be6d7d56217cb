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
 * The readers of one task, which may be thousands one after the other ({@code coalesce}, {@code cartesian}): closes them, and tells of
 * all of them together what one would tell. Spark sees one listener.
 *
 * <p>A reader that has come to its end is closed at once but for its last block, which somebody may still point into without holding the
 * row (the other inputs of a join come to their ends too); a few of these stay until the task ends.
 */
final class TaskReaders implements TaskCompletionListener, BlockSource.Owner {
    /** Last blocks that are kept until the task ends: more inputs than one operator has. */
    private static final int LAST_BLOCKS = 8;

    /** Readers after which Spark's sums over all of a task's readers, which take longer each time, are left to the end of the task. */
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

    /** Those of a task, from any of its threads. */
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
     * The thread that runs the task, and on which it ends, if it is the calling one. Null otherwise: threads that work for a task have its
     * context, too, so nothing but the name that Spark gives to a thread for as long as it runs the task tells them apart.
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
        // Not under our lock. Under that of a source that finished later than this one, which so never waits for that.
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

package io.forebay.spark;

import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.spark.TaskContext;
import org.apache.spark.util.TaskCompletionListener;

/**
 * Closes a reader when its task has ended, and not while another thread may still look at a row in its memory.
 *
 * <p>Spark lets other threads read a task's input: the one that feeds a Python worker, for example. When the task ends they are told to
 * stop, but not waited for, and a row may then be half way through a projection. With rows on the heap that is harmless; here the memory
 * is kept until the thread is gone.
 */
final class ReaderCleanup implements TaskCompletionListener {
    /** A thread of a pool never ends. One that still holds a row so long after its task does not come from Spark. */
    private static final long PATIENCE_MILLIS = TimeUnit.MINUTES.toMillis(1);

    /** One thread, there while it is needed. */
    private static final ExecutorService LATE = late();

    private final Thread task = Thread.currentThread();
    private final Runnable close;
    private volatile Thread other;

    ReaderCleanup(Runnable close) {
        this.close = close;
    }

    /** The thread that has been given a block. */
    void usedBy(Thread thread) {
        if (thread != task) {
            other = thread;
        }
    }

    @Override
    public void onTaskCompletion(TaskContext context) {
        Thread user = other;
        if (user == null || !user.isAlive()) {
            close.run();
        } else {
            LATE.execute(
                    () -> {
                        try {
                            user.join(PATIENCE_MILLIS);
                        } catch (InterruptedException e) {
                            Thread.currentThread().interrupt();
                        }
                        close.run();
                    });
        }
    }

    private static ExecutorService late() {
        ThreadPoolExecutor pool =
                new ThreadPoolExecutor(
                        1,
                        1,
                        1,
                        TimeUnit.SECONDS,
                        new LinkedBlockingQueue<>(),
                        work -> {
                            Thread thread = new Thread(work, "forebay-reader-cleanup");
                            thread.setDaemon(true);
                            return thread;
                        });
        pool.allowCoreThreadTimeOut(true);
        return pool;
    }
}

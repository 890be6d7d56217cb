package io.forebay.spark;

import io.forebay.core.InterruptCheck;
import org.apache.spark.TaskContext;

/** What a thread does between two slices of a native wait, in the exceptions that Spark knows. */
final class Interrupts {
    /**
     * A thread that is interrupted: one of the driver's, or one that works for a task, such as the one that feeds a Python worker. Spark
     * tells a query that was stopped from one that failed by this exception.
     */
    static final InterruptCheck THREAD =
            () -> {
                if (Thread.currentThread().isInterrupted()) {
                    throw Sneaky.rethrow(new InterruptedException("interrupted while waiting for a Forebay server"));
                }
            };

    private Interrupts() {}

    /** A task that is killed ends with Spark's own exception, never with a fetch failure. */
    static InterruptCheck ofTask(TaskContext context) {
        return () -> {
            context.killTaskIfInterrupted();
            THREAD.check();
        };
    }
}

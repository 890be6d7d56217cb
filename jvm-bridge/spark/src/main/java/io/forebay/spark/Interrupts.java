package io.forebay.spark;

import io.forebay.core.InterruptCheck;
import org.apache.spark.TaskContext;

/** The check between two slices of a native wait, with Spark's own exceptions. */
final class Interrupts {
    /**
     * The check of an interrupted thread: one of the driver's, or one at work for a task, such as
     * the feeder of a Python worker. By this exception Spark tells a stopped query from a failed
     * one.
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

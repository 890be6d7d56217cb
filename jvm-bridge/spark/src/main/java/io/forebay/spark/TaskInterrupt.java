package io.forebay.spark;

import io.forebay.core.InterruptCheck;
import org.apache.spark.TaskContext;

/** What a task does between two slices of a native wait. A killed task ends with Spark's own exception, never with a fetch failure. */
final class TaskInterrupt {
    private TaskInterrupt() {}

    static InterruptCheck of(TaskContext context) {
        return () -> {
            context.killTaskIfInterrupted();
            // A thread that works for the task, such as the one that feeds a Python worker, is only interrupted.
            InterruptCheck.THREAD.check();
        };
    }
}

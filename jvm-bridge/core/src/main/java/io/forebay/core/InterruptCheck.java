package io.forebay.core;

/**
 * The check between two slices of a wait: throws if the thread should stop. Spark's check is
 * {@code TaskContext.killTaskIfInterrupted}. The exception leaves the wait unchanged.
 */
@FunctionalInterface
public interface InterruptCheck {
    /** Stops at the interrupt flag of the thread, and leaves it set. */
    InterruptCheck THREAD =
            () -> {
                if (Thread.currentThread().isInterrupted()) {
                    throw new WaitInterruptedException();
                }
            };

    /** Throws if the wait should end. */
    void check();
}

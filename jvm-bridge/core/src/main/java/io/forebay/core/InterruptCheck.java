package io.forebay.core;

/**
 * What a thread does between two slices of a wait: throw if it should stop. Spark's is {@code TaskContext.killTaskIfInterrupted};
 * what it throws leaves the wait unchanged.
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

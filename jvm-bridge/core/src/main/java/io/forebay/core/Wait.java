package io.forebay.core;

/**
 * The waiting loop of every long call: slices of at most {@link #SLICE_MILLIS} in native code, the
 * interrupt check between them. A killed task leaves within a slice.
 */
final class Wait {
    static final int SLICE_MILLIS = 50;

    /** One slice. */
    interface Step {
        /** Returns true when there is no need to wait longer. */
        boolean done(int timeoutMillis);
    }

    private Wait() {}

    static void until(InterruptCheck interrupt, Step step) {
        while (!step.done(SLICE_MILLIS)) {
            interrupt.check();
        }
    }
}

package io.forebay.core;

/**
 * The interrupt of a waiting thread. Unchecked, so that iterators can throw; the interrupt flag
 * stays set.
 */
public final class WaitInterruptedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    WaitInterruptedException() {
        super("interrupted while waiting for a Forebay server");
    }
}

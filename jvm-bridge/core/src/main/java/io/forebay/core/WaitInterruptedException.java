package io.forebay.core;

/** A wait ended because its thread was interrupted. Unchecked, so that iterators can throw it; the interrupt flag stays set. */
public final class WaitInterruptedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    WaitInterruptedException() {
        super("interrupted while waiting for a Forebay server");
    }
}

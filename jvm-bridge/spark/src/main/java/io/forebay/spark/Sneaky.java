package io.forebay.spark;

/**
 * Throws what Scala may throw and Java's signatures do not say: {@code FetchFailedException} is
 * checked.
 */
final class Sneaky {
    private Sneaky() {}

    /**
     * Throws any argument; declared to return so that the caller can write {@code throw}.
     */
    static RuntimeException rethrow(Throwable e) {
        throw Sneaky.<RuntimeException>cast(e);
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> T cast(Throwable e) throws T {
        throw (T) e;
    }
}

package io.forebay.spark;

import java.io.ByteArrayOutputStream;

/** A growing array that can be looked into without a copy. */
final class Bytes extends ByteArrayOutputStream {
    private static final int START = 4096;

    /** Larger ones are not kept for the next record. */
    private static final int KEPT = 1 << 20;

    Bytes() {
        super(START);
    }

    /** The array; its first {@link #size} bytes are written. */
    byte[] array() {
        return buf;
    }

    void clear() {
        count = 0;
        if (buf.length > KEPT) {
            buf = new byte[START];
        }
    }
}

package io.forebay.core;

/** The native library cannot be used in this JVM. Its message names everything that was tried, and why it failed. */
public final class NativeLibraryException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    NativeLibraryException(String message, Throwable cause) {
        super(message, cause);
    }
}

package io.forebay.core;

/**
 * The native library cannot be used in this JVM. The message lists all tries with their failures.
 */
public final class NativeLibraryException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    NativeLibraryException(String message, Throwable cause) {
        super(message, cause);
    }
}

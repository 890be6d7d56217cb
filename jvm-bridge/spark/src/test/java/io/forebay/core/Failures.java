package io.forebay.core;

/** Makes what native code makes. */
public final class Failures {
    private Failures() {}

    public static ForebayException of(String kind, String message, String volume, int mapIndex, long attempt, String... gone) {
        return new ForebayException(kind, message, volume, mapIndex, attempt, String.join(",", gone));
    }
}

package io.forebay.core;

/** Makes what native code makes. */
public final class Failures {
    private Failures() {}

    public static ForebayException of(String kind, String message, String volume, int mapIndex, long attempt, String... gone) {
        return new ForebayException(kind, message, volume, mapIndex, attempt, String.join(",", gone), "");
    }

    /**
     * @param lost {@code map/attempt/volume} of each that is lost by itself, with commas in between
     */
    public static ForebayException ofSingle(String kind, String lost, String volume, int mapIndex, long attempt, String... gone) {
        return new ForebayException(kind, "lost", volume, mapIndex, attempt, String.join(",", gone), lost);
    }
}

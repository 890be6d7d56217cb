package io.forebay.core;

/** A failure of the client behind {@link Native}. Nobody branches on its message; the kind says what to do. */
public final class ForebayException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String kind;
    private final String volume;
    private final int mapIndex;
    private final long attempt;

    /** Called from native code; keep the signature. */
    ForebayException(String kind, String message, String volume, int mapIndex, long attempt) {
        super(message);
        this.kind = kind;
        this.volume = volume;
        this.mapIndex = mapIndex;
        this.attempt = attempt;
    }

    /** {@code invalid, fenced, busy, unavailable, lost, corrupt, internal} or {@code denied}. */
    public String kind() {
        return kind;
    }

    /** The output that cannot be read: its volume, or null if the failure is not about one. */
    public String volume() {
        return volume;
    }

    /** Its map index, or -1. */
    public int mapIndex() {
        return mapIndex;
    }

    /** Its attempt, or -1. */
    public long attempt() {
        return attempt;
    }
}

package io.forebay.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * A failure of the client behind {@link Native}. The kind tells the caller what to do; no code
 * branches on the message.
 */
public final class ForebayException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String kind;
    private final String volume;
    private final int mapIndex;
    private final long attempt;
    private final String goneVolumes;
    private final String lost;

    /** A single lost map output; its neighbours on the volume are not affected. */
    public static final class Lost {
        private final int mapIndex;
        private final long attempt;
        private final String volume;

        Lost(String text) {
            String[] words = text.split("/");
            this.mapIndex = Integer.parseUnsignedInt(words[0]);
            this.attempt = Long.parseUnsignedLong(words[1]);
            this.volume = words[2];
        }

        /** Position of its map. */
        public int mapIndex() {
            return mapIndex;
        }

        /** The attempt. */
        public long attempt() {
            return attempt;
        }

        /** Where it was. */
        public String volume() {
            return volume;
        }
    }

    /** About no volume but, perhaps, that of the output. */
    ForebayException(String kind, String message, String volume, int mapIndex, long attempt) {
        this(kind, message, volume, mapIndex, attempt, "", "");
    }

    /** Called from native code; keep the signature. */
    ForebayException(String kind, String message, String volume, int mapIndex, long attempt, String goneVolumes, String lost) {
        super(message);
        this.kind = kind;
        this.volume = volume;
        this.mapIndex = mapIndex;
        this.attempt = attempt;
        this.goneVolumes = goneVolumes;
        this.lost = lost;
    }

    /** {@code invalid, fenced, busy, unavailable, lost, corrupt, internal} or {@code denied}. */
    public String kind() {
        return kind;
    }

    /** Volume of the unreadable output, or null if the failure is not about an output. */
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

    /**
     * All volumes that were found gone on the way to this failure, that of {@link #volume} among
     * them where it is gone: what any of them held, of every shuffle, is to be computed again.
     * Empty if none was.
     */
    public List<String> goneVolumes() {
        return goneVolumes.isEmpty() ? Collections.emptyList() : Collections.unmodifiableList(Arrays.asList(goneVolumes.split(",")));
    }

    /**
     * All map outputs that were found lost by themselves on the way to this failure, that of
     * {@link #volume} among them where it is one of these: each is to be computed again, and
     * nothing beside it. Empty if none was.
     */
    public List<Lost> lost() {
        List<Lost> outputs = new ArrayList<>();
        if (!lost.isEmpty()) {
            for (String output : lost.split(",")) {
                outputs.add(new Lost(output));
            }
        }
        return outputs;
    }
}

package io.forebay.core;

import java.util.Arrays;
import java.util.List;

/** A map output that is visible, whole, and as safe as was asked. */
public final class CommittedOutput {
    private final long[] partitionLengths;
    private final String location;

    CommittedOutput(long[] partitionLengths, String location) {
        this.partitionLengths = partitionLengths;
        this.location = location;
    }

    /**
     * Stored bytes per partition; 0 only where nothing was written. The caller may keep the array.
     */
    public long[] partitionLengths() {
        return partitionLengths;
    }

    /**
     * {@code volume@host:port}, as in a {@link ReadPlan}; at level mirror two such places with a
     * {@code +} in between.
     */
    public String location() {
        return location;
    }

    /** Each {@code volume@host:port} of the location: who holds a copy. */
    public List<String> places() {
        return Arrays.asList(location.split("\\+"));
    }
}

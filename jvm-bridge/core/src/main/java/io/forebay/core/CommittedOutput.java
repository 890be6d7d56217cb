package io.forebay.core;

/** A map output that is visible, whole, and as safe as was asked. */
public final class CommittedOutput {
    private final long[] partitionLengths;
    private final String location;

    CommittedOutput(long[] partitionLengths, String location) {
        this.partitionLengths = partitionLengths;
        this.location = location;
    }

    /** Stored bytes per partition; 0 only where nothing was written. The caller may keep the array. */
    public long[] partitionLengths() {
        return partitionLengths;
    }

    /** {@code volume@host:port}, as a {@link ReadPlan} takes it. */
    public String location() {
        return location;
    }

    /** Identity of the volume that holds the output. */
    public String volume() {
        return location.substring(0, location.indexOf('@'));
    }

    /** Where that volume's server is: {@code host:port}. */
    public String address() {
        return location.substring(location.indexOf('@') + 1);
    }
}

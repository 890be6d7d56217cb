package io.forebay.core;

import java.util.Objects;

/**
 * Properties shared by all outputs of a shuffle: its size, the servers, durability and compression.
 */
public final class ShuffleLayout {
    final int numMaps;
    final int numPartitions;
    final String[] candidates;
    final String durability;
    final String compression;

    /**
     * @param candidates what {@link ForebayClient#placeShuffle} answered
     * @param durability {@code memory, disk, fsync, mirror} or {@code object}
     * @param compression {@code none, lz4, zstd} or {@code zstd:LEVEL}
     */
    public ShuffleLayout(int numMaps, int numPartitions, String[] candidates, String durability, String compression) {
        this.numMaps = numMaps;
        this.numPartitions = numPartitions;
        this.candidates = Objects.requireNonNull(candidates, "candidates");
        this.durability = Objects.requireNonNull(durability, "durability");
        this.compression = Objects.requireNonNull(compression, "compression");
    }

    public int numMaps() {
        return numMaps;
    }

    public int numPartitions() {
        return numPartitions;
    }

    public String[] candidates() {
        return candidates.clone();
    }

    public String durability() {
        return durability;
    }

    public String compression() {
        return compression;
    }
}

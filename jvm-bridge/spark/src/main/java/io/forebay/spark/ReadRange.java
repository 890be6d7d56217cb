package io.forebay.spark;

/** What a reader was asked for: map indexes and partitions, both half open. */
final class ReadRange {
    final int mapStart;
    final int mapEnd;
    final int partitionStart;
    final int partitionEnd;

    /**
     * @param mapEnd {@code Integer.MAX_VALUE} = all maps
     */
    ReadRange(int mapStart, int mapEnd, int partitionStart, int partitionEnd) {
        this.mapStart = mapStart;
        this.mapEnd = mapEnd;
        this.partitionStart = partitionStart;
        this.partitionEnd = partitionEnd;
    }
}

package io.forebay.core;

/** One map attempt of a shuffle: the identity of an output. */
public final class MapAttempt {
    final int shuffle;
    final int mapIndex;
    final long attempt;

    /**
     * @param mapIndex position of the map task
     * @param attempt Spark's {@code taskAttemptId}
     */
    public MapAttempt(int shuffle, int mapIndex, long attempt) {
        this.shuffle = shuffle;
        this.mapIndex = mapIndex;
        this.attempt = attempt;
    }
}

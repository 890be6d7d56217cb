package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.spark.ui.TaskReports;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.shuffle.BaseShuffleHandle;

/**
 * What tasks need to know of a shuffle; travels with them over Spark's RPC. It is the only way in which the app's token reaches
 * executors: a SparkConf is shown in the UI.
 */
final class ForebayShuffleHandle<K, V, C> extends BaseShuffleHandle<K, V, C> {
    private static final long serialVersionUID = 1L;

    private final String app;
    private final String token;
    private final long leaseMillis;
    private final ShuffleNumbers.Current number;
    final String[] candidates;
    final String durability;
    final int numMaps;
    final int numPartitions;
    /** As {@link BlockCodec} has it. */
    final String compression;

    /** What tasks tell the driver goes here. */
    final TaskReports reports;

    ForebayShuffleHandle(
            int shuffleId,
            ShuffleNumbers.Current number,
            ShuffleDependency<K, V, C> dependency,
            Caller caller,
            String token,
            String[] candidates,
            String durability,
            int numMaps,
            String compression,
            TaskReports reports) {
        super(shuffleId, dependency);
        this.number = number;
        this.app = caller.app();
        this.token = token;
        this.leaseMillis = caller.leaseMillis();
        this.candidates = candidates;
        this.durability = durability;
        this.numMaps = numMaps;
        this.numPartitions = dependency.partitioner().numPartitions();
        this.compression = compression;
        this.reports = reports;
    }

    /** Under which number the servers know the shuffle. */
    int number() {
        return number.value();
    }

    Caller caller() {
        return new Caller(app, token, leaseMillis);
    }
}

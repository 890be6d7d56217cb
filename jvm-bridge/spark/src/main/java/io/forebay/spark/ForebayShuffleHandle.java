package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.spark.ui.TaskReports;
import java.io.IOException;
import java.io.ObjectOutputStream;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.rdd.RDD;
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

    /** False where it is not known, as in a handle that {@link ForeignHandle} has taken over: then more maps run again than must. */
    private boolean mapsRunAlone;

    /** What tasks tell the driver goes here; null if it cannot be told. */
    final TaskReports reports;

    ForebayShuffleHandle(
            int shuffleId,
            ShuffleNumbers.Current number,
            ShuffleDependency<K, V, C> dependency,
            Caller caller,
            String[] candidates,
            String durability,
            int numMaps,
            String compression,
            TaskReports reports) {
        this(
                shuffleId,
                number,
                dependency,
                caller.app(),
                caller.token(),
                caller.leaseMillis(),
                candidates,
                durability,
                numMaps,
                dependency.partitioner().numPartitions(),
                compression,
                reports);
    }

    /** All fields: see {@link ForeignHandle}, which knows their names. */
    ForebayShuffleHandle(
            int shuffleId,
            ShuffleNumbers.Current number,
            ShuffleDependency<K, V, C> dependency,
            String app,
            String token,
            long leaseMillis,
            String[] candidates,
            String durability,
            int numMaps,
            int numPartitions,
            String compression,
            TaskReports reports) {
        super(shuffleId, dependency);
        this.number = number;
        this.app = app;
        this.token = token;
        this.leaseMillis = leaseMillis;
        this.candidates = candidates;
        this.durability = durability;
        this.numMaps = numMaps;
        this.numPartitions = numPartitions;
        this.compression = compression;
        this.reports = reports;
    }

    /**
     * Whether it is enough that a map whose output is lost runs again: its rows cannot be others then, and it does not run all or none with
     * the rest. As the driver knew it when it sent this.
     */
    boolean mapsRunAlone() {
        return mapsRunAlone;
    }

    /** Not before: what it depends on may be checkpointed between registration and the first task, and Spark looks once. */
    private void writeObject(ObjectOutputStream out) throws IOException {
        RDD<?> maps = dependency().rdd();
        if (maps != null) {
            mapsRunAlone = !TrackedOutputs.rowsMayDiffer(maps) && !maps.isBarrier();
        }
        out.defaultWriteObject();
    }

    /** Under which number the servers know the shuffle. */
    int number() {
        return number.value();
    }

    Caller caller() {
        return new Caller(app, token, leaseMillis);
    }
}

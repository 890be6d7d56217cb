package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.core.ShuffleLayout;
import io.forebay.spark.ui.TaskReports;
import java.io.IOException;
import java.io.ObjectOutputStream;
import java.util.function.Supplier;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.rdd.RDD;
import org.apache.spark.shuffle.BaseShuffleHandle;

/**
 * A shuffle's description for tasks, sent over Spark's RPC. The only way of the app's token to
 * executors: a SparkConf is shown in the UI.
 */
final class ForebayShuffleHandle<K, V, C> extends BaseShuffleHandle<K, V, C> {
    private static final long serialVersionUID = 1L;

    // ForeignHandle knows the names of these fields.
    private final String app;
    private String token;
    private final long leaseMillis;

    /** On the driver: the app's token of this moment. Null in a handle that was sent. */
    private final transient Supplier<String> newest;

    private final ShuffleNumbers.Current number;
    private final String[] candidates;
    private final String durability;
    private final int numMaps;
    final int numPartitions;
    /** As {@link BlockCodec} has it. */
    private final String compression;
    /** As {@link TlsFiles} has it: a secret, and the only way to executors, as the token. */
    private final String[] tls;

    /**
     * False if unknown, as in a handle taken over by {@link ForeignHandle}: then more maps run
     * again than necessary.
     */
    private boolean mapsRunAlone;

    /** Tasks' reports to the driver; null without a way there. */
    final TaskReports reports;

    ForebayShuffleHandle(
            int shuffleId,
            ShuffleNumbers.Current number,
            ShuffleDependency<K, V, C> dependency,
            Caller caller,
            Supplier<String> newest,
            ShuffleLayout layout,
            String[] tls,
            TaskReports reports) {
        super(shuffleId, dependency);
        this.number = number;
        this.app = caller.app();
        this.token = caller.token();
        this.newest = newest;
        this.leaseMillis = caller.leaseMillis();
        this.candidates = layout.candidates();
        this.durability = layout.durability();
        this.numMaps = layout.numMaps();
        this.numPartitions = layout.numPartitions();
        this.compression = layout.compression();
        this.tls = tls;
        this.reports = reports;
    }

    /**
     * Whether running one map again is enough after the loss of its output: its rows cannot differ
     * then, and the map is not part of a barrier stage. As known to the driver when the handle was
     * sent.
     */
    boolean mapsRunAlone() {
        return mapsRunAlone;
    }

    /**
     * As late as here: the RDD may be checkpointed between registration and the first task, and
     * Spark looks once. Spark sends a handle with each attempt at a stage, so tasks have the app's
     * token of that moment.
     */
    private void writeObject(ObjectOutputStream out) throws IOException {
        RDD<?> maps = dependency().rdd();
        if (maps != null) {
            mapsRunAlone = !TrackedOutputs.rowsMayDiffer(maps) && !maps.isBarrier();
        }
        if (newest != null) {
            token = newest.get();
        }
        out.defaultWriteObject();
    }

    /** Under which number the servers know the shuffle. */
    int number() {
        return number.value();
    }

    /** How to speak TLS with the servers; null for in the clear. */
    String[] tls() {
        return tls;
    }

    Caller caller() {
        return new Caller(app, token, leaseMillis);
    }

    ShuffleLayout layout() {
        return new ShuffleLayout(numMaps, numPartitions, candidates, durability, compression);
    }
}

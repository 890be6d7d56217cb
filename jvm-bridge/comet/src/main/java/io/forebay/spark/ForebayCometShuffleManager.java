package io.forebay.spark;

import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.TaskContext;
import org.apache.spark.shuffle.ShuffleHandle;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.shuffle.ShuffleReader;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.sql.comet.execution.shuffle.CometNativeShuffle$;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleDependency;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager;

/**
 * {@code spark.shuffle.manager=io.forebay.spark.ForebayCometShuffleManager}, for applications with
 * Apache DataFusion Comet: Comet's native and columnar exchanges are kept on Forebay's servers, as
 * frames that Comet has encoded, and all others as {@link ForebayShuffleManager} keeps them.
 *
 * <p>Extends Comet's own manager because Comet shuffles only where that is in use.
 */
public final class ForebayCometShuffleManager extends CometShuffleManager implements ForebayShuffleManager.Engine {
    private final ForebayShuffleManager forebay;

    /** Null where Comet is one that we know. */
    private final String refusal;

    /**
     * Called by Spark.
     *
     * @throws IllegalArgumentException naming the key that cannot be, and the remedy
     */
    public ForebayCometShuffleManager(SparkConf conf, boolean isDriver) {
        super(conf);
        refusal = CometVersion.refusal();
        if (isDriver && refusal != null) {
            CometVersion.leaveShufflesToSpark(conf, refusal);
        }
        forebay = new ForebayShuffleManager(conf, isDriver);
    }

    @Override
    public ForebayShuffleManager forebay() {
        return forebay;
    }

    @Override
    public <K, V, C> ShuffleHandle registerShuffle(int shuffleId, ShuffleDependency<K, V, C> dependency) {
        ShuffleHandle handle = forebay.registerShuffle(shuffleId, dependency);
        if (!(dependency instanceof CometShuffleDependency)) {
            return handle;
        }
        if (refusal != null) {
            throw new IllegalStateException("shuffle " + shuffleId + " is one of Comet's: " + refusal);
        }
        return handle instanceof ForebayShuffleHandle ? handle : super.registerShuffle(shuffleId, dependency);
    }

    @Override
    public <K, V> ShuffleWriter<K, V> getWriter(
            ShuffleHandle handle, long mapId, TaskContext context, ShuffleWriteMetricsReporter metrics) {
        if (ForebayShuffleManager.isSparks(handle, forebay.conf())) {
            return super.getWriter(handle, mapId, context, metrics);
        }
        ForebayShuffleHandle<K, V, ?> ours = ForebayShuffleManager.ours(handle);
        if (!(ours.dependency() instanceof CometShuffleDependency)) {
            return forebay.getWriter(handle, mapId, context, metrics);
        }
        CometShuffleDependency<K, V, ?> dependency = (CometShuffleDependency<K, V, ?>) ours.dependency();
        CometOutput output = new CometOutput(forebay.task(ours, context), mapId);
        return isNative(dependency)
                ? new CometNativeWriter<>(dependency, output, context, metrics)
                : new CometColumnarWriter<>(dependency, output, context, metrics);
    }

    @Override
    public <K, C> ShuffleReader<K, C> getReader(
            ShuffleHandle handle,
            int startMapIndex,
            int endMapIndex,
            int startPartition,
            int endPartition,
            TaskContext context,
            ShuffleReadMetricsReporter metrics) {
        if (ForebayShuffleManager.isSparks(handle, forebay.conf())) {
            return super.getReader(handle, startMapIndex, endMapIndex, startPartition, endPartition, context, metrics);
        }
        ForebayShuffleHandle<K, ?, C> ours = ForebayShuffleManager.ours(handle);
        if (!(ours.dependency() instanceof CometShuffleDependency)) {
            return forebay.getReader(handle, startMapIndex, endMapIndex, startPartition, endPartition, context, metrics);
        }
        CometShuffleDependency<K, ?, C> dependency = (CometShuffleDependency<K, ?, C>) ours.dependency();
        ReadRange range = new ReadRange(startMapIndex, endMapIndex, startPartition, endPartition);
        ForebayShuffleReader<K, C> blocks =
                new ForebayShuffleReader<>(forebay.task(ours, context), range, metrics, forebay.conf().windowBytes());
        return new CometReader<>(dependency, blocks, CometOutput.isEncryptedByComet(isNative(dependency)), context, metrics);
    }

    private static boolean isNative(CometShuffleDependency<?, ?, ?> dependency) {
        return dependency.shuffleType() == CometNativeShuffle$.MODULE$;
    }

    @Override
    public boolean unregisterShuffle(int shuffleId) {
        return super.unregisterShuffle(shuffleId) & forebay.unregisterShuffle(shuffleId);
    }

    @Override
    public void stop() {
        try {
            forebay.stop();
        } finally {
            super.stop();
        }
    }
}

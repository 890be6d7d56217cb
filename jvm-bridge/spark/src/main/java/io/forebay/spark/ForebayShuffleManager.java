package io.forebay.spark;

import io.forebay.spark.ui.ForebaySource;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.TaskContext;
import org.apache.spark.shuffle.ShuffleHandle;
import org.apache.spark.shuffle.ShuffleManager;
import org.apache.spark.shuffle.ShuffleReadMetricsReporter;
import org.apache.spark.shuffle.ShuffleReader;
import org.apache.spark.shuffle.ShuffleWriteMetricsReporter;
import org.apache.spark.shuffle.ShuffleWriter;
import org.apache.spark.shuffle.sort.SortShuffleManager;

/**
 * {@code spark.shuffle.manager=io.forebay.spark.ForebayShuffleManager}: keeps shuffle data on
 * Forebay's servers. Made by Spark, once per JVM.
 *
 * <p>Extends Spark's own manager for two reasons beside its block resolver: Spark 4.3 refuses a
 * plain {@code ShuffleManager}, and SQL copies every row for any other manager class.
 */
public final class ForebayShuffleManager extends SortShuffleManager {
    private final Settings settings;
    private final ClientHolder client;
    private final DriverApp app;

    /** On an executor, once it has run a task of ours. */
    private ForebaySource source;

    /**
     * Called by Spark. On the driver, sets and checks the settings of Spark that matter here.
     *
     * @throws IllegalArgumentException naming the key that cannot be, and the remedy
     */
    public ForebayShuffleManager(SparkConf sparkConf, boolean isDriver) {
        super(sparkConf);
        settings = Settings.read(sparkConf, isDriver);
        client = new ClientHolder(settings.orNull());
        if (isDriver) {
            ExecutorClassPath.check(sparkConf);
            client.speak(TlsFiles.read(sparkConf));
            ExecutorMemory.warn(sparkConf, settings.get());
            app = new DriverApp(sparkConf, settings.get(), client, DriverSettings.prepare(sparkConf));
        } else {
            app = null;
        }
    }

    /** The Forebay behind this application's manager; null if there is none. */
    static ForebayShuffleManager of(ShuffleManager manager) {
        if (manager instanceof Engine) {
            return ((Engine) manager).forebay();
        }
        return manager instanceof ForebayShuffleManager ? (ForebayShuffleManager) manager : null;
    }

    /** A manager for another engine inside of Spark, which leaves to ours all that is not its own. */
    interface Engine {
        ForebayShuffleManager forebay();
    }

    ForebayConf conf() {
        return settings.get();
    }

    /** The app, on the driver; null on an executor. */
    DriverApp app() {
        return app;
    }

    @Override
    public <K, V, C> ShuffleHandle registerShuffle(int shuffleId, ShuffleDependency<K, V, C> dependency) {
        if (app == null) {
            throw new IllegalStateException("shuffle " + shuffleId + " is registered on an executor: only the driver does that");
        }
        app.observe(dependency.rdd().context());
        if (!app.status().isActive()) {
            return super.registerShuffle(shuffleId, dependency);
        }
        return app.register(shuffleId, dependency);
    }

    @Override
    public <K, V> ShuffleWriter<K, V> getWriter(
            ShuffleHandle handle, long mapId, TaskContext context, ShuffleWriteMetricsReporter metrics) {
        if (isSparks(handle, settings.get())) {
            return super.getWriter(handle, mapId, context, metrics);
        }
        ForebayShuffleHandle<K, V, ?> ours = ours(handle);
        return new ForebayShuffleWriter<>(task(ours, context), mapId, metrics, settings.get().arenaBytes());
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
        if (isSparks(handle, settings.get())) {
            return super.getReader(handle, startMapIndex, endMapIndex, startPartition, endPartition, context, metrics);
        }
        ReadRange range = new ReadRange(startMapIndex, endMapIndex, startPartition, endPartition);
        ForebayShuffleHandle<K, ?, C> ours = ours(handle);
        return new ForebayShuffleReader<>(task(ours, context), range, metrics, settings.get().windowBytes());
    }

    /** What a task needs at a shuffle of ours. */
    <K, V, C> ShuffleTask<K, V, C> task(ForebayShuffleHandle<K, V, C> handle, TaskContext context) {
        return new ShuffleTask<>(handle, context, client, new Traffic(handle, context, source()));
    }

    /** Spark's metrics are not there yet when the manager of a 3.5 executor is made. */
    private synchronized ForebaySource source() {
        if (source == null && app == null) {
            source = new ForebaySource();
            SparkEnv.get().metricsSystem().registerSource(source);
        }
        return source;
    }

    @Override
    public void stop() {
        try {
            client.close();
        } finally {
            super.stop();
        }
    }

    /**
     * The driver has decided for the whole application; each handle says how, so executors need not
     * be told.
     */
    static boolean isSparks(ShuffleHandle handle, ForebayConf conf) {
        return conf.fallback() && handle.getClass().getName().startsWith("org.apache.spark.");
    }

    @SuppressWarnings("unchecked")
    static <K, V, C> ForebayShuffleHandle<K, V, C> ours(ShuffleHandle handle) {
        if (handle instanceof ForebayShuffleHandle) {
            return (ForebayShuffleHandle<K, V, C>) handle;
        }
        if (ForeignHandle.is(handle)) {
            return ForeignHandle.adopt(handle);
        }
        throw new IllegalStateException(
                "shuffle " + handle.shuffleId() + " was registered with another shuffle manager (" + handle.getClass().getName()
                        + "): driver and executors must have the same spark.shuffle.manager and the same jar");
    }
}

package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.core.ForebayClient;
import io.forebay.core.ForebayException;
import io.forebay.core.NativeLibraryException;
import io.forebay.spark.ui.AppObserver;
import io.forebay.spark.ui.AppStarted;
import io.forebay.spark.ui.ShuffleRegistered;
import java.util.concurrent.TimeUnit;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The app on the driver: registered with the servers when its first shuffle is, its lease kept by the native client until the end, its
 * data deleted then. What a driver leaves behind that is killed goes with the lease.
 */
final class DriverApp {
    private static final Logger LOG = LoggerFactory.getLogger(DriverApp.class);
    private static final long GOODBYE_SECONDS = 30;
    private static final int TOKEN_BYTES = 32;

    /** How long the start of an application may be held up to find out whether there are servers, if it can do without. */
    private static final long DECISION_MILLIS = 30_000;

    private final SparkConf sparkConf;
    private final ForebayConf conf;
    private final ClientHolder client;
    private final ShuffleNumbers numbers = new ShuffleNumbers();
    private final DriverSettings settings;
    private final String compression;
    private final AppObserver observer = new AppObserver();

    private AppIdentity identity;
    private Caller caller;
    private boolean open;
    private volatile ForebayStatus status = ForebayStatus.active();

    DriverApp(SparkConf sparkConf, ForebayConf conf, ClientHolder client, DriverSettings settings) {
        this.sparkConf = sparkConf;
        this.conf = conf;
        this.client = client;
        this.settings = settings;
        this.compression = BlockCodec.of(sparkConf);
    }

    ForebayStatus status() {
        return status;
    }

    /**
     * Called when the app has its id, before anything is shuffled or Spark has looked at how safe shuffle data is. Where falling back is
     * allowed, registers the app now, and decides for the whole application: a part of its shuffles on Forebay and a part not would be
     * kept by Spark as if all were.
     */
    void start() {
        if (!conf.fallback()) {
            return;
        }
        // A client of its own, because it has less patience. The lease of the app outlives it by far.
        try (ForebayClient impatient = client.another(Math.min(DECISION_MILLIS, conf.retryMillis()))) {
            impatient.openApp(caller(), Interrupts.THREAD);
        } catch (ForebayException | NativeLibraryException e) {
            status = ForebayStatus.fallback(e.getMessage());
            client.close();
            settings.restore(status.toString());
            LOG.warn(
                    "Forebay is not used: the whole application runs on Spark's own shuffle ({}=true), and the loss of an executor costs its map "
                            + "outputs. The reason: {}",
                    ForebayConf.Key.FALLBACK.key,
                    e.getMessage());
        }
    }

    <K, V, C> ForebayShuffleHandle<K, V, C> register(int shuffle, ShuffleDependency<K, V, C> dependency) {
        Caller caller = open();
        int maps = dependency.rdd().getNumPartitions();
        int partitions = dependency.partitioner().numPartitions();
        // Spark makes shuffles of no maps (an empty relation) and of no partitions (sorting an empty RDD); no task will use them.
        String[] candidates = client.get().placeShuffle(caller.app(), shuffle, Math.max(1, maps), Math.max(1, partitions));
        LOG.debug("shuffle {}: {} maps, {} partitions on {} servers", shuffle, maps, partitions, candidates.length);
        ShuffleRegistered event = new ShuffleRegistered();
        event.shuffle = shuffle;
        event.maps = maps;
        event.partitions = partitions;
        event.candidates = candidates.length;
        event.durability = conf.durability();
        observer.registered(event);
        return new ForebayShuffleHandle<>(
                shuffle, numbers.register(shuffle), dependency, caller, candidates, conf.durability(), maps, compression, observer.reports());
    }

    /** Shows people what becomes of the application's shuffles; there is no SparkContext before the first. */
    void observe(SparkContext context) {
        AppStarted event = new AppStarted();
        event.settings = conf.shown();
        event.fallback = status.fallbackReason().orElse("");
        event.app = status.isActive() ? caller().app() : "";
        observer.start(context, event);
    }

    /** The id is not there before the SparkContext is complete, but no shuffle is either. */
    private synchronized Caller open() {
        if (!open) {
            client.get().openApp(caller(), Interrupts.THREAD);
            open = true;
            ReduceLocality.switchOff(SparkEnv.get().mapOutputTracker());
            LOG.info("app {} is registered with the Forebay servers {}", identity, conf.servers());
        }
        return caller;
    }

    private synchronized Caller caller() {
        if (caller == null) {
            identity = AppIdentity.of(sparkConf);
            String token = conf.token().orElseGet(() -> AppIdentity.random(TOKEN_BYTES));
            caller = new Caller(identity.servers(), token, conf.leaseMillis());
        }
        return caller;
    }

    /** Deletes the shuffle's data; what cannot be reached goes with the lease. The shuffle may be written again. */
    void removeShuffle(int shuffle, boolean blocking) {
        Caller caller = ifOpen();
        if (caller == null) {
            return;
        }
        int number = numbers.delete(shuffle);
        try {
            if (blocking) {
                client.get().deleteShuffle(caller.app(), number, Interrupts.THREAD);
            } else {
                client.get().deleteShuffleInBackground(caller.app(), number);
            }
        } catch (ForebayException e) {
            LOG.warn("shuffle {} could not be deleted on every Forebay server; the rest goes when the app ends: {}", shuffle, e.getMessage());
        }
    }

    /** Deletes all that the app has; bounded, because it is called while Spark stops. */
    void close() {
        Caller caller = ifOpen();
        if (caller == null) {
            return;
        }
        synchronized (this) {
            open = false;
        }
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(GOODBYE_SECONDS);
        try {
            client.get()
                    .closeApp(
                            caller.app(),
                            () -> {
                                if (System.nanoTime() > end) {
                                    throw new IllegalStateException("no answer in " + GOODBYE_SECONDS + " s");
                                }
                            });
        } catch (ForebayException | IllegalStateException e) {
            LOG.warn("app {} could not be deleted on every Forebay server; its lease takes care of the rest: {}", caller.app(), e.getMessage());
        }
    }

    private synchronized Caller ifOpen() {
        return open ? caller : null;
    }
}

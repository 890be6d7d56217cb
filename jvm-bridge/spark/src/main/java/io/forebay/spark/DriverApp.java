package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.core.ForebayClient;
import io.forebay.core.ForebayException;
import io.forebay.core.NativeLibraryException;
import io.forebay.core.ServerView;
import io.forebay.core.ShuffleLayout;
import io.forebay.spark.ui.AppObserver;
import io.forebay.spark.ui.AppStarted;
import io.forebay.spark.ui.ShuffleRegistered;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The app on the driver: registered with the servers for its first shuffle, its lease renewed by
 * the native client, its data deleted at the end. After a kill of the driver the lease ends, and
 * the data go with it.
 */
final class DriverApp {
    private static final Logger LOG = LoggerFactory.getLogger(DriverApp.class);
    private static final long GOODBYE_SECONDS = 10;
    private static final String QUEUE = "forebay";
    private static final int TOKEN_BYTES = 32;

    /**
     * How long the start of an application may be held up to find out whether there are servers, if
     * it can do without.
     */
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

    /**
     * No wait happens under this object's monitor: stopping Spark, cancelling a query and freeing a
     * shuffle take it too.
     */
    private boolean open;

    private volatile boolean stopping;

    /** From the first shuffle on. */
    private TrackedOutputs outputs;

    private Losses losses;
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
     * Called when the app has its id, before anything is shuffled or Spark has looked at how safe
     * shuffle data is. Where falling back is allowed, registers the app now, and decides for the
     * whole application: a part of its shuffles on Forebay and a part not would be kept by Spark as
     * if all were.
     */
    void start() {
        if (!conf.fallback()) {
            return;
        }
        // A client of its own, with less patience. The app's lease is much longer.
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
        int maps = dependency.rdd().getNumPartitions();
        int partitions = dependency.partitioner().numPartitions();
        ShuffleLimits.check(shuffle, maps, partitions);
        Caller caller = open();
        // Spark makes shuffles of no maps (an empty relation) and of no partitions (sorting an
        // empty RDD); no task will use them.
        String[] candidates = client.get().placeShuffle(caller.app(), shuffle, Math.max(1, maps), Math.max(1, partitions));
        LOG.debug("shuffle {}: {} maps, {} partitions on {} servers", shuffle, maps, partitions, candidates.length);
        ShuffleRegistered event = new ShuffleRegistered();
        event.shuffle = shuffle;
        event.maps = maps;
        event.partitions = partitions;
        event.candidates = candidates.length;
        event.durability = conf.durability();
        observer.registered(event);
        outputs.register(shuffle, dependency);
        ShuffleLayout layout = new ShuffleLayout(maps, partitions, candidates, conf.durability(), compression);
        return new ForebayShuffleHandle<>(shuffle, numbers.register(shuffle), dependency, caller, this::token, layout, client.tls(), observer.reports());
    }

    /**
     * Begins to watch what becomes of the application's shuffles; there is no SparkContext before
     * the first.
     */
    void observe(SparkContext context) {
        AppStarted event = new AppStarted();
        event.settings = conf.shown();
        event.fallback = status.fallbackReason().orElse("");
        event.app = status.isActive() ? caller().app() : "";
        observer.start(context, event);
        watch(context);
    }

    private synchronized void watch(SparkContext context) {
        if (outputs != null || !status.isActive()) {
            return;
        }
        outputs = new TrackedOutputs(SparkEnv.get().mapOutputTracker());
        losses = new Losses(outputs, new Servers(), conf.readsStore(), conf.retryMillis());
        // A queue of its own: when something is lost, Spark tries again after 200 ms, and other
        // listeners may be slow.
        context.listenerBus().addToQueue(losses, QUEUE);
    }

    /**
     * The registered app. The id exists only with a complete SparkContext, and so do shuffles.
     * Concurrent callers share a registration; an interrupted caller leaves it to later ones.
     */
    private Caller open() {
        Caller caller = caller();
        if (isOpen()) {
            return caller;
        }
        try {
            client.get().openApp(caller, this::mayWait);
        } catch (NativeLibraryException e) {
            throw new IllegalStateException(
                    "the driver cannot register the application with the Forebay servers. " + e.getMessage() + ". The driver needs the library as executors "
                            + "do: run it on Linux with glibc (in the cluster, for example), or set " + ForebayConf.Key.FALLBACK.key
                            + "=true, or leave " + ForebayPlugin.MANAGER + " out where the application is only tried",
                    e);
        } catch (ForebayException e) {
            // The client may be closed before this thread asks for leave to wait.
            if (stopping) {
                throw stopped(e);
            }
            throw e;
        }
        synchronized (this) {
            if (!open) {
                open = true;
                ReduceLocality.switchOff(SparkEnv.get().mapOutputTracker());
                LOG.info("app {} is registered with the Forebay servers {}", identity, conf.servers());
            }
        }
        return caller;
    }

    private synchronized boolean isOpen() {
        return open;
    }

    private void mayWait() {
        Interrupts.THREAD.check();
        if (stopping) {
            throw stopped(null);
        }
    }

    private IllegalStateException stopped(ForebayException cause) {
        return new IllegalStateException("the SparkContext is being stopped: app " + identity + " is not registered any more", cause);
    }

    /** What tasks call with that are sent now. */
    private String token() {
        Caller caller = caller();
        try {
            return client.get().appToken(caller.app());
        } catch (ForebayException | IllegalStateException e) {
            // The application ends, and so do its tasks.
            LOG.debug("no token of app {}: {}", caller.app(), e.getMessage());
            return caller.token();
        }
    }

    private synchronized Caller caller() {
        if (caller == null) {
            identity = AppIdentity.of(sparkConf);
            String token = conf.token().orElseGet(() -> AppIdentity.random(TOKEN_BYTES));
            caller = new Caller(identity.servers(), token, conf.leaseMillis());
        }
        return caller;
    }

    /**
     * Deletes the shuffle's data; what cannot be reached goes with the lease. The shuffle may be
     * written again.
     */
    void removeShuffle(int shuffle, boolean blocking) {
        Caller caller = ifOpen();
        if (caller == null) {
            return;
        }
        ShuffleNumbers.Deleted deleted = numbers.delete(shuffle);
        if (deleted.canBeRead()) {
            // A reader of these outputs finds nothing and has the maps run again, instead of one
            // failure per volume.
            outputs.forgetAll(shuffle);
        } else {
            outputs.ended(shuffle);
        }
        try {
            if (blocking) {
                client.get().deleteShuffle(caller.app(), deleted.number(), Interrupts.THREAD);
            } else {
                client.get().deleteShuffleInBackground(caller.app(), deleted.number());
            }
        } catch (ForebayException | IllegalStateException e) {
            LOG.warn("shuffle {} could not be deleted on every Forebay server; the rest goes when the app ends: {}", shuffle, e.getMessage());
        }
    }

    /** Deletes all data of the app; bounded in time, because Spark is stopping. */
    void close() {
        stopping = true;
        Caller caller;
        synchronized (this) {
            caller = ifOpen();
            open = false;
            if (losses != null) {
                losses.stop();
            }
        }
        if (caller == null) {
            return;
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

    /** The servers, from the descriptions of this JVM's client. */
    private final class Servers implements Losses.Pool {
        @Override
        public List<ServerView> known() {
            return isOpen() ? client.get().servers(caller().app()) : Collections.emptyList();
        }

        @Override
        public List<ServerView> look(Collection<String> addresses) {
            return client.get().look(caller().app(), addresses, Interrupts.THREAD);
        }
    }

    private synchronized Caller ifOpen() {
        return open ? caller : null;
    }
}

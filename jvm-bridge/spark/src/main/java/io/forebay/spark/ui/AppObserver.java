package io.forebay.spark.ui;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.spark.FetchFailed;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerApplicationEnd;
import org.apache.spark.scheduler.SparkListenerStageCompleted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.status.ElementTrackingStore;
import org.apache.spark.ui.SparkUI;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Option;

/**
 * On the driver: takes tasks' reports, posts them as events, and shows the tab. Starts with the
 * first shuffle.
 */
public final class AppObserver extends SparkListener {
    private static final Logger LOG = LoggerFactory.getLogger(AppObserver.class);

    /** Within a stage; its end is told at once. */
    private static final long EVERY_NANOS = TimeUnit.SECONDS.toNanos(1);

    private final ForebaySource source = new ForebaySource();
    private final TaskReports reports = new TaskReports(this::told);
    private final Map<String, ShuffleTraffic> untold = new LinkedHashMap<>();
    private long toldAt = System.nanoTime();
    private SparkContext context;

    /** Begins to observe; every call but the first does nothing. */
    public synchronized void start(SparkContext context, AppStarted app) {
        if (this.context != null) {
            return;
        }
        this.context = context;
        // Reports of failed tasks too: the interesting ones.
        reports.register(context, Option.empty(), true);
        SparkEnv.get().metricsSystem().registerSource(source);
        context.addSparkListener(this);
        try {
            show(context);
        } catch (RuntimeException | LinkageError e) {
            // No job fails for want of a page.
            LOG.warn("there will be no Forebay tab in the Spark UI of this application", e);
        }
        context.listenerBus().post(app);
    }

    /** Tells of a shuffle. */
    public void registered(ShuffleRegistered shuffle) {
        context.listenerBus().post(shuffle);
    }

    /** The accumulator of this application's tasks. */
    public TaskReports reports() {
        return reports;
    }

    @Override
    public void onTaskEnd(SparkListenerTaskEnd end) {
        if (end.reason() instanceof FetchFailed && StatusListener.volume((FetchFailed) end.reason()) != null) {
            source.countFetchFailure();
        }
    }

    @Override
    public void onStageCompleted(SparkListenerStageCompleted end) {
        tell();
    }

    @Override
    public void onApplicationEnd(SparkListenerApplicationEnd end) {
        tell();
    }

    /** Called by Spark's scheduler, before the end of the task and of its stage are posted. */
    private synchronized void told(ShuffleTraffic task) {
        source.count(task);
        ShuffleTraffic sum = untold.putIfAbsent(task.shuffle + (task.write ? " written" : " read"), task);
        if (sum != null) {
            sum.add(task);
        }
        if (System.nanoTime() - toldAt > EVERY_NANOS) {
            tell();
        }
    }

    private synchronized void tell() {
        toldAt = System.nanoTime();
        if (!untold.isEmpty()) {
            TrafficReported event = new TrafficReported();
            event.traffic.addAll(untold.values());
            untold.clear();
            context.listenerBus().post(event);
        }
    }

    private static void show(SparkContext context) {
        if (context.ui().isDefined()) {
            SparkUI ui = context.ui().get();
            ElementTrackingStore store = (ElementTrackingStore) ui.store().store();
            context.addSparkListener(new StatusListener(context.conf(), store, true));
            ui.attachTab(new ForebayTab(ui));
        }
    }
}

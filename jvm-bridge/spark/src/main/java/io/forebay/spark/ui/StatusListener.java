package io.forebay.spark.ui;

import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.spark.FetchFailed;
import org.apache.spark.SparkConf;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerEvent;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.shuffle.FetchFailedException;
import org.apache.spark.status.ElementTrackingStore;
import scala.runtime.BoxedUnit;

/**
 * Makes tables of the events, in the live application and in the history server. Spark calls on one
 * thread; the page reads the store on others.
 */
public final class StatusListener extends SparkListener {
    private static final String LOCATION = "forebay-";

    /** Fetch failures whose text is kept; all are counted. */
    private static final int FAILURES = 100;

    private final ElementTrackingStore store;
    private final boolean live;

    /** Shuffles that are kept; as many as stages. */
    private final int retained;

    private final StoredApp app = new StoredApp();
    private final TreeMap<Integer, StoredShuffle> shuffles = new TreeMap<>();
    private final TreeMap<String, StoredServer> servers = new TreeMap<>();
    private final Map<String, String> addressOfVolume = new HashMap<>();

    /**
     * @param live whether the page must see each event at once; else all is stored when Spark has
     *     read the log
     */
    public StatusListener(SparkConf conf, ElementTrackingStore store, boolean live) {
        this.store = store;
        this.live = live;
        this.retained = Math.max(1, conf.getInt("spark.ui.retainedStages", 1000));
        if (!live) {
            store.onFlush(
                    () -> {
                        storeAll();
                        return BoxedUnit.UNIT;
                    });
        }
    }

    @Override
    public void onOtherEvent(SparkListenerEvent event) {
        if (event instanceof TrafficReported) {
            ((TrafficReported) event).traffic.forEach(this::moved);
        } else if (event instanceof ShuffleRegistered) {
            registered((ShuffleRegistered) event);
        } else if (event instanceof AppStarted) {
            app.fallback = ((AppStarted) event).fallback;
            app.app = ((AppStarted) event).app;
            app.settings = ((AppStarted) event).settings;
            changed(app);
        }
    }

    @Override
    public void onTaskEnd(SparkListenerTaskEnd end) {
        if (end.reason() instanceof FetchFailed && volume((FetchFailed) end.reason()) != null) {
            failed(end, (FetchFailed) end.reason());
        }
    }

    /**
     * The unreadable volume, or null after a failure of Spark's own shuffle.
     */
    static String volume(FetchFailed failure) {
        String location = failure.bmAddress() == null ? "" : failure.bmAddress().executorId();
        String prefix = LOCATION + failure.shuffleId() + "-";
        // A failure of one map output alone names the output too.
        return location.startsWith(prefix) ? location.substring(prefix.length()).split("-map-", 2)[0] : null;
    }

    private void registered(ShuffleRegistered event) {
        StoredShuffle shuffle = shuffle(event.shuffle);
        shuffle.maps = event.maps;
        shuffle.partitions = event.partitions;
        shuffle.durability = event.durability;
        app.shuffles++;
        changed(shuffle);
        changed(app);
    }

    private void moved(ShuffleTraffic task) {
        StoredShuffle shuffle = shuffle(task.shuffle);
        (task.write ? shuffle.written : shuffle.read).add(task);
        (task.write ? app.written : app.read).add(task);
        for (Map.Entry<String, ShuffleTraffic.Server> entry : task.servers.entrySet()) {
            String address = entry.getKey();
            ShuffleTraffic.Server part = entry.getValue();
            StoredServer server = server(address);
            (task.write ? server.written : server.read).add(part);
            if (!part.lastFailure.isEmpty()) {
                server.lastFailure = part.lastFailure;
            }
            for (String volume : part.volumes) {
                shuffle.servers = with(shuffle.servers, address);
                server.volumes = with(server.volumes, volume);
                addressOfVolume.put(volume, address);
            }
            changed(server);
        }
        if (task.write) {
            shuffle.stage = task.stage;
            shuffle.outputs += task.outputs;
        }
        changed(shuffle);
        changed(app);
    }

    private void failed(SparkListenerTaskEnd end, FetchFailed reason) {
        StoredFailure failure = new StoredFailure();
        failure.number = ++app.fetchFailures;
        failure.time = end.taskInfo().finishTime();
        failure.stage = end.stageId();
        failure.stageAttempt = end.stageAttemptId();
        failure.task = end.taskInfo().taskId();
        failure.shuffle = reason.shuffleId();
        failure.map = reason.mapIndex();
        failure.partition = reason.reduceId();
        failure.volume = volume(reason);
        failure.address =
                Stream.of(failure.volume.split("\\+")).map(volume -> addressOfVolume.getOrDefault(volume, "")).collect(Collectors.joining(" "));
        failure.reason = words(String.valueOf(reason.message()));
        store.write(failure);
        if (failure.number > FAILURES) {
            store.delete(StoredFailure.class, failure.number - FAILURES);
        }
        StoredShuffle shuffle = shuffle(failure.shuffle);
        shuffle.fetchFailures++;
        changed(shuffle);
        if (!failure.address.isEmpty()) {
            StoredServer server = server(failure.address);
            server.fetchFailures++;
            server.lastFailure = failure.reason;
            changed(server);
        }
        changed(app);
    }

    /** The message alone: the exception's name and the stack below it are the same each time. */
    private static String words(String exception) {
        String name = FetchFailedException.class.getName() + ": ";
        String text = exception.split("\n\tat ", 2)[0];
        return text.startsWith(name) ? text.substring(name.length()) : text;
    }

    private StoredShuffle shuffle(int id) {
        StoredShuffle shuffle = shuffles.get(id);
        if (shuffle == null) {
            shuffle = new StoredShuffle();
            shuffle.shuffle = id;
            shuffles.put(id, shuffle);
            while (shuffles.size() > retained && shuffles.firstKey() < id) {
                int oldest = shuffles.pollFirstEntry().getKey();
                if (live) {
                    store.delete(StoredShuffle.class, oldest);
                }
            }
        }
        return shuffle;
    }

    private StoredServer server(String address) {
        return servers.computeIfAbsent(
                address,
                unknown -> {
                    StoredServer server = new StoredServer();
                    server.address = unknown;
                    return server;
                });
    }

    private static Set<String> with(Set<String> set, String value) {
        if (set.contains(value)) {
            return set;
        }
        Set<String> more = new TreeSet<>(set);
        more.add(value);
        return Collections.unmodifiableSet(more);
    }

    private void changed(Object stored) {
        if (live) {
            store.write(stored);
        }
    }

    private void storeAll() {
        if (app.settings.isEmpty()) {
            return; // not an application of ours
        }
        store.write(app);
        shuffles.values().forEach(store::write);
        servers.values().forEach(store::write);
    }
}

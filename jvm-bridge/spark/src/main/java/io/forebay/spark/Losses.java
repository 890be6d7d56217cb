package io.forebay.spark;

import io.forebay.core.ServerView;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BiPredicate;
import java.util.stream.Collectors;
import org.apache.spark.FetchFailed;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerExecutorMetricsUpdate;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.storage.BlockManagerId;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * On the driver: one loss is one failure. A fetch failure names one output, and Spark forgets the
 * outputs of its volume and shuffle; further losses would take one failure each, one attempt of a
 * stage each, and the fourth ends the job. So after a fetch failure Spark is made to forget at once
 * everything now gone: other volumes of the server, volumes of other dead servers, of all shuffles.
 *
 * <p>Twice for each failure: at once from the task's report, because Spark tries the stage again
 * 200 ms later, and after the answers of all servers. Late is no harm: a map stage that ends with
 * missing outputs goes on with those maps.
 *
 * <p>With an object store, single outputs of a dead volume may still be there, and only tasks find
 * out. So the first failure forgets what its task has found lost; if another attempt of the stage
 * fails at the same shuffle, everything of the shuffle that is gone by the servers' answers is
 * forgotten, before the stage's four attempts are used up.
 *
 * <p>Single lost map outputs (flipped bits) are reported under a location without any registered
 * output, and Spark is made to forget all such outputs of the task's report here. If a stage fails
 * so a second time for a shuffle, the cause must spoil more than single outputs: their neighbours
 * on the volume are forgotten too, before the stage's attempts are used up.
 */
final class Losses extends SparkListener {
    private static final Logger LOG = LoggerFactory.getLogger(Losses.class);
    private static final long IDLE_SECONDS = 10;
    private static final long LOOK_AGAIN_SECONDS = 2;

    /** The servers, as the driver's client sees them. */
    interface Pool {
        /** The servers' last answers. */
        List<ServerView> known();

        /** The servers' answers now. */
        List<ServerView> look(Collection<String> addresses);
    }

    /** Spark's knowledge of this application's map outputs. */
    interface Outputs {
        /** Where some are registered. */
        Set<BlockManagerId> places();

        /**
         * Makes Spark forget the outputs for which the test of shuffle and place holds; returns
         * their number.
         */
        int forget(BiPredicate<Integer, BlockManagerId> gone);

        /**
         * Makes Spark forget one output, if it is still of that attempt; returns its former place,
         * or null.
         */
        BlockManagerId forget(int shuffle, int mapIndex, long attempt);
    }

    private final Outputs outputs;
    private final Pool pool;

    /**
     * Whether volumes without a server may be in an object store. A server with a store told so in
     * its answers.
     */
    private volatile boolean store;

    private final Silence silence;

    /** Asks the servers, in a thread that ends when idle. */
    private final ScheduledThreadPoolExecutor looking = new ScheduledThreadPoolExecutor(1, Losses::thread);

    private final AtomicBoolean lookIsDue = new AtomicBoolean();

    private long heard = System.nanoTime();
    private String lastTold = "";
    private long lastToldAt;

    /**
     * With a store: the last attempt of a stage that failed to fetch from a shuffle, by shuffle.
     */
    private final Map<Integer, int[]> failedBefore = new HashMap<>();

    /** What single outputs were lost, by shuffle. */
    private final Map<Integer, Single> singles = new HashMap<>();

    /** Single outputs that attempts of a stage have found lost. */
    private static final class Single {
        final int stage;
        final int attempt;
        final Set<BlockManagerId> places = new HashSet<>();

        Single(int stage, int attempt) {
            this.stage = stage;
            this.attempt = attempt;
        }
    }

    /** @param store whether readers look into an object store themselves */
    Losses(Outputs outputs, Pool pool, boolean store, long retryMillis) {
        this.outputs = outputs;
        this.pool = pool;
        this.store = store;
        this.silence = new Silence(retryMillis);
        looking.setKeepAliveTime(IDLE_SECONDS, TimeUnit.SECONDS);
        looking.allowCoreThreadTimeOut(true);
        looking.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
    }

    private static Thread thread(Runnable work) {
        Thread thread = new Thread(work, "forebay-losses");
        thread.setDaemon(true);
        return thread;
    }

    @Override
    public void onTaskEnd(SparkListenerTaskEnd end) {
        if (end.reason() instanceof FetchFailed) {
            FetchFailed failure = (FetchFailed) end.reason();
            if (VolumeLocation.parse(failure.bmAddress(), failure.shuffleId()) != null) {
                GoneNote note = GoneNote.in(failure.message());
                Map<Integer, Long> lost = new TreeMap<>(note.lost());
                if (VolumeLocation.isOfOne(failure.bmAddress())) {
                    lost.put(failure.mapIndex(), failure.mapId());
                }
                if (!lost.isEmpty()) {
                    lost(failure.shuffleId(), lost, end.stageId(), end.stageAttemptId());
                }
                failed(failure, note, end.stageId(), end.stageAttemptId());
            }
        }
    }

    /**
     * Comes with each heartbeat: while tasks wait for a server, the driver notes for how long it
     * does not answer.
     */
    @Override
    public void onExecutorMetricsUpdate(SparkListenerExecutorMetricsUpdate heartbeat) {
        if (System.nanoTime() - heard < TimeUnit.SECONDS.toNanos(LOOK_AGAIN_SECONDS)) {
            return; // there may be a thousand executors
        }
        heard = System.nanoTime();
        try {
            List<ServerView> known = pool.known();
            hasStore(known);
            silence.answering(addresses(known), System.nanoTime());
        } catch (RuntimeException e) {
            LOG.debug("the servers are not known: {}", e.toString());
        }
    }

    /**
     * Forgets single outputs. Not twice: many tasks may report the same outputs, and so may a stage
     * that came too soon.
     */
    private void lost(int shuffle, Map<Integer, Long> attempts, int stage, int attempt) {
        Set<Integer> forgotten = new TreeSet<>();
        Set<BlockManagerId> places = new HashSet<>();
        try {
            attempts.forEach(
                    (map, of) -> {
                        BlockManagerId place = outputs.forget(shuffle, map, of);
                        if (place != null) {
                            forgotten.add(map);
                            places.add(place);
                        }
                    });
            if (forgotten.isEmpty()) {
                return;
            }
            LOG.warn("outputs {} of shuffle {} are lost and will be computed again; the others at {} are not", forgotten, shuffle, places);
            Single before = singles.get(shuffle);
            if (before == null || before.stage != stage) {
                before = new Single(stage, attempt);
                singles.put(shuffle, before);
            }
            before.places.addAll(places);
            if (before.attempt < attempt) {
                forget(before.places, shuffle);
            }
        } catch (RuntimeException e) {
            LOG.warn("outputs {} of shuffle {} are lost, and Spark has not been told of all: {}", attempts.keySet(), shuffle, e.toString());
        }
    }

    private void failed(FetchFailed failure, GoneNote note, int stage, int attempt) {
        int shuffle = failure.shuffleId();
        try {
            silence.waitedFor(note.silent());
            List<ServerView> known = pool.known();
            boolean stored = hasStore(known);
            if (isNews(stage + "." + attempt + " " + shuffle + note)) {
                Set<BlockManagerId> places = outputs.places();
                // A task may have lost its own way to a living server: for other shuffles the
                // driver's view counts.
                forget(Gone.told(places, note.withoutSilent(), known), shuffle);
                if (!stored) {
                    forget(Gone.told(places, note.withoutVolumes(), known), null);
                }
            }
            if (stored) {
                if (isSecond(shuffle, stage, attempt)) {
                    later(() -> look(shuffle), 0);
                }
            } else if (lookIsDue.compareAndSet(false, true)) {
                later(() -> look(null), 0);
            }
        } catch (RuntimeException e) {
            LOG.warn("what is lost with {} is found out by further failures: {}", failure.bmAddress(), e.toString());
        }
    }

    /** Whether the report is new: a thousand tasks may fail for one server. */
    private boolean isNews(String told) {
        long now = System.nanoTime();
        if (told.equals(lastTold) && now - lastToldAt < TimeUnit.SECONDS.toNanos(1)) {
            return false;
        }
        lastTold = told;
        lastToldAt = now;
        return true;
    }

    /**
     * Whether an earlier attempt of the stage has failed for that shuffle; once for each attempt.
     */
    private boolean isSecond(int shuffle, int stage, int attempt) {
        int[] before = failedBefore.put(shuffle, new int[] {stage, attempt});
        return before != null && before[0] == stage && before[1] < attempt;
    }

    private boolean hasStore(List<ServerView> servers) {
        if (servers.stream().anyMatch(ServerView::hasStore)) {
            store = true;
        }
        return store;
    }

    private void later(Runnable work, long seconds) {
        try {
            looking.schedule(work, seconds, TimeUnit.SECONDS);
        } catch (RejectedExecutionException e) {
            LOG.debug("the application ends");
        }
    }

    /**
     * @param shuffle the one of which outputs are forgotten, whether there is a store or not; null
     *     = all, if there is none
     */
    private void look(Integer shuffle) {
        if (shuffle == null) {
            // What fails from here on is looked for once more.
            lookIsDue.set(false);
        }
        try {
            Set<BlockManagerId> places = outputs.places();
            Set<String> used = new HashSet<>();
            for (BlockManagerId place : places) {
                for (String copy : VolumeLocation.copies(place)) {
                    used.add(VolumeLocation.address(copy));
                }
            }
            List<ServerView> seen = pool.look(used);
            if (hasStore(seen) && shuffle == null) {
                return;
            }
            long now = System.nanoTime();
            Set<String> silent = new HashSet<>(used);
            silent.removeAll(addresses(seen));
            silence.asked(addresses(seen), silent, now);
            Set<String> forGood = silence.forGood(now);
            forget(Gone.seen(places, forGood, seen), shuffle);
            if (!forGood.containsAll(silent) && shuffle == null && lookIsDue.compareAndSet(false, true)) {
                // Starting again, or gone: a waiting reader will know no sooner.
                later(() -> look(null), LOOK_AGAIN_SECONDS);
            }
        } catch (RuntimeException e) {
            LOG.warn("what else is lost is found out by further failures: {}", e.toString());
        }
    }

    private static Set<String> addresses(List<ServerView> servers) {
        return servers.stream().filter(ServerView::answers).map(ServerView::address).collect(Collectors.toSet());
    }

    /** @param shuffle the one of which they are to be forgotten, or null for all */
    private void forget(Set<BlockManagerId> gone, Integer shuffle) {
        if (gone.isEmpty()) {
            return;
        }
        int forgotten = outputs.forget((number, place) -> (shuffle == null || shuffle.equals(number)) && gone.contains(place));
        if (forgotten > 0) {
            Set<String> places = new TreeSet<>();
            gone.forEach(place -> places.add(place.host() + " at " + place.topologyInfo().get()));
            LOG.warn("{} more map outputs are lost and will be computed again; gone are {}", forgotten, places);
        }
    }

    void stop() {
        looking.shutdownNow();
    }
}

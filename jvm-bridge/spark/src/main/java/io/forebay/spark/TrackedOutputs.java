package io.forebay.spark;

import java.lang.ref.WeakReference;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.BiPredicate;
import org.apache.spark.MapOutputTracker;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.ShuffleStatus;
import org.apache.spark.SparkException;
import org.apache.spark.rdd.DeterministicLevel;
import org.apache.spark.rdd.RDD;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.storage.BlockManagerId;
import scala.Option;

/**
 * The map outputs in Spark's tracker on the driver, as far as they are this application's on
 * Forebay, and the way to make Spark forget lost ones before a task fails for each. A stage that
 * finds an output missing runs its map; only a failed fetch fails the stage.
 *
 * <p>invariant: one-loss-one-failure. Outputs of maps with changing rows are not forgotten here:
 * after the loss of one of them Spark must take back the results of the others too, and does so for
 * a fetch failure only.
 */
final class TrackedOutputs implements Losses.Outputs {
    /**
     * Shuffles with maps that can run again. Weak: a dependency without references is never read
     * again.
     */
    private final Map<Integer, WeakReference<ShuffleDependency<?, ?, ?>>> dependencies = new ConcurrentHashMap<>();

    private final MapOutputTracker tracker;

    TrackedOutputs(MapOutputTracker tracker) {
        this.tracker = tracker;
    }

    void register(int shuffle, ShuffleDependency<?, ?, ?> dependency) {
        dependencies.put(shuffle, new WeakReference<>(dependency));
    }

    /** Nobody will ask for the shuffle any more. */
    void ended(int shuffle) {
        dependencies.remove(shuffle);
    }

    @Override
    public Set<BlockManagerId> places() {
        Set<BlockManagerId> places = new HashSet<>();
        for (int shuffle : dependencies.keySet()) {
            ShuffleStatus status = status(shuffle);
            if (status == null) {
                continue;
            }
            for (MapStatus map : status.mapStatuses()) {
                if (map != null && VolumeLocation.parse(map.location(), shuffle) != null) {
                    places.add(map.location());
                }
            }
        }
        return places;
    }

    /** Forgets only outputs of shuffles of which that is enough. */
    @Override
    public int forget(BiPredicate<Integer, BlockManagerId> gone) {
        int forgotten = 0;
        for (int shuffle : dependencies.keySet()) {
            ShuffleStatus status = status(shuffle);
            if (status == null || !canBeForgotten(shuffle)) {
                continue;
            }
            int[] count = new int[1];
            status.removeOutputsByFilter(
                    place -> {
                        boolean is = gone.test(shuffle, place);
                        count[0] += is ? 1 : 0;
                        return is;
                    });
            if (count[0] > 0 && isBarrier(shuffle)) {
                // Tasks of a barrier stage run all or none.
                count[0] += forgetEach(shuffle);
            }
            forgotten += count[0];
        }
        if (forgotten > 0) {
            // What executors have been told is old.
            ((MapOutputTrackerMaster) tracker).incrementEpoch();
        }
        return forgotten;
    }

    @Override
    public BlockManagerId forget(int shuffle, int mapIndex, long attempt) {
        ShuffleStatus status = status(shuffle);
        if (status == null || !canBeForgotten(shuffle) || isBarrier(shuffle) || mapIndex < 0 || mapIndex >= status.mapStatuses().length) {
            return null;
        }
        MapStatus map = status.mapStatuses()[mapIndex];
        if (map == null || map.mapId() != attempt || VolumeLocation.parse(map.location(), shuffle) == null) {
            return null; // it has been forgotten already, or another attempt is there in its place
        }
        return forgotten(() -> ((MapOutputTrackerMaster) tracker).unregisterMapOutput(shuffle, mapIndex, map.location())) ? map.location() : null;
    }

    /** Has Spark forget all outputs of a shuffle, if that is enough. */
    void forgetAll(int shuffle) {
        if (status(shuffle) != null && canBeForgotten(shuffle)) {
            forgetEach(shuffle);
        }
    }

    private int forgetEach(int shuffle) {
        return forgotten(() -> ((MapOutputTrackerMaster) tracker).unregisterAllMapAndMergeOutput(shuffle)) ? 1 : 0;
    }

    /** False if Spark has forgotten the whole shuffle meanwhile. */
    private static boolean forgotten(Runnable forget) {
        try {
            forget.run();
            return true;
        } catch (RuntimeException e) {
            return false;
        } catch (Exception e) {
            if (e instanceof SparkException) {
                return false; // Scala declares nothing
            }
            throw Sneaky.rethrow(e);
        }
    }

    private ShuffleStatus status(int shuffle) {
        Option<ShuffleStatus> status = ((MapOutputTrackerMaster) tracker).shuffleStatuses().get(shuffle);
        return status.isDefined() ? status.get() : null;
    }

    private boolean canBeForgotten(int shuffle) {
        RDD<?> maps = maps(shuffle);
        return maps != null && !rowsMayDiffer(maps);
    }

    /** Whether a map that runs again may make other rows than before. */
    static boolean rowsMayDiffer(RDD<?> maps) {
        return maps.outputDeterministicLevel().equals(DeterministicLevel.INDETERMINATE());
    }

    private boolean isBarrier(int shuffle) {
        RDD<?> maps = maps(shuffle);
        return maps != null && maps.isBarrier();
    }

    private RDD<?> maps(int shuffle) {
        WeakReference<ShuffleDependency<?, ?, ?>> reference = dependencies.get(shuffle);
        ShuffleDependency<?, ?, ?> dependency = reference == null ? null : reference.get();
        return dependency == null ? null : dependency.rdd();
    }
}

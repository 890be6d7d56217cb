package io.forebay.spark;

import io.forebay.core.ForebayException;
import io.forebay.core.ReadPlan;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.shuffle.FetchFailedException;
import org.apache.spark.storage.BlockId;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.storage.ShuffleBlockId;
import scala.Tuple2;
import scala.Tuple3;
import scala.collection.Iterator;

/**
 * The outputs to be seen by a reader, from Spark's MapOutputTracker: the winning attempt of each
 * map, its place, and its partitions with data (a size of 0 is exact). The servers' answers are
 * compared with these, so that unknown data never pass for empty data.
 */
final class MapOutputs {
    private final int shuffle;
    private final ReadRange range;
    private final ReadPlan plan;

    /** Whether the driver can be told of a single lost output, without its neighbours. */
    private final boolean one;

    private final List<Output> outputs = new ArrayList<>();
    private long blocks;

    private static final class Output {
        final BlockManagerId location;
        final int mapIndex;
        final long attempt;

        Output(BlockManagerId location, int mapIndex, long attempt) {
            this.location = location;
            this.mapIndex = mapIndex;
            this.attempt = attempt;
        }
    }

    /**
     * Takes the answer of {@code getMapSizesByExecutorId}.
     *
     * @param one as {@link SingleLoss#mayBeTold} has it
     * @throws FetchFailedException if an output is registered under a location that is not ours:
     *     its map is run again
     */
    MapOutputs(int shuffle, ReadRange range, boolean one, Iterator<?> sizesByLocation) {
        this.shuffle = shuffle;
        this.range = range;
        this.one = one;
        this.plan = new ReadPlan(range.partitionStart, range.partitionEnd, range.mapStart, range.mapEnd);
        while (sizesByLocation.hasNext()) {
            Tuple2<?, ?> entry = (Tuple2<?, ?>) sizesByLocation.next();
            add((BlockManagerId) entry._1(), Shim.iterate(entry._2()));
        }
    }

    private void add(BlockManagerId location, Iterator<Tuple3<BlockId, Object, Object>> blocks) {
        String place = VolumeLocation.parse(location, shuffle);
        Output last = null;
        while (blocks.hasNext()) {
            Tuple3<BlockId, Object, Object> block = blocks.next();
            ShuffleBlockId id = (ShuffleBlockId) block._1();
            // Blocks come map by map, partitions ascending.
            if (last == null || last.attempt != id.mapId()) {
                last = new Output(location, ((Number) block._3()).intValue(), id.mapId());
                if (place == null) {
                    throw failed(last, location, "its location " + location + " is not a Forebay volume", null);
                }
                outputs.add(last);
                plan.output(place, last.mapIndex, last.attempt);
            }
            plan.partition(id.reduceId());
            this.blocks++;
        }
    }

    ReadPlan plan() {
        return plan;
    }

    boolean isEmpty() {
        return plan.isEmpty();
    }

    /** Pairs of map and partition with data: what Spark calls a shuffle block. */
    long blocks() {
        return blocks;
    }

    /**
     * Spark's form of a failure: a fetch failure if an output is concerned, so that its map runs
     * again; else the failure itself. Call on the task's own thread: the exception registers itself
     * there, and from then on the task counts as one with a failed fetch, whatever becomes of the
     * exception.
     */
    RuntimeException translate(ForebayException e) {
        if (e.volume() == null) {
            return e;
        }
        for (Output output : outputs) {
            if (output.attempt == e.attempt()) {
                String place = VolumeLocation.parse(output.location, shuffle);
                boolean alone = one && SingleLoss.is(e, output.mapIndex, place);
                BlockManagerId location = alone ? VolumeLocation.ofOne(output.location, output.mapIndex) : output.location;
                return failed(output, location, e.getMessage() + GoneNote.of(e, place), e);
            }
        }
        return e;
    }

    private RuntimeException failed(Output output, BlockManagerId location, String why, Throwable cause) {
        String message =
                "map output " + output.mapIndex + " of shuffle " + shuffle + " (attempt " + output.attempt + ") cannot be read from Forebay: " + why;
        return Sneaky.rethrow(
                new FetchFailedException(location, shuffle, output.attempt, output.mapIndex, range.partitionStart, message, cause));
    }
}

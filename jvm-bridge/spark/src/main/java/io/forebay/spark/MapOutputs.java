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
 * The outputs that a reader must see, as Spark's MapOutputTracker names them: which attempt of each map won, where it is registered, and
 * which partitions it has data for (a size of 0 is exact). What the servers send is compared with this, so that something unknown is
 * never taken for something empty.
 */
final class MapOutputs {
    private final int shuffle;
    private final ReadRange range;
    private final ReadPlan plan;

    /** Whether the driver can be told that one of them is lost and not those beside it. */
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
     * @throws FetchFailedException if an output is registered under a location that is not ours: its map is run again
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
     * What Spark is to be told of a failure: a fetch failure if it concerns an output, so that its map is run again; itself otherwise.
     * Call on the thread that runs for the task: the exception registers itself there, and from then on the task counts as one that
     * failed to fetch, whatever becomes of the exception.
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

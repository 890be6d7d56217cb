package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.FetchFailed;
import org.apache.spark.shuffle.FetchFailedException;
import org.apache.spark.storage.BlockId;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.storage.ShuffleBlockId;
import org.junit.jupiter.api.Test;
import scala.Tuple2;
import scala.Tuple3;
import scala.collection.immutable.List;
import scala.collection.immutable.Nil$;

class MapOutputsTest {
    private static final ReadRange RANGE = new ReadRange(0, Integer.MAX_VALUE, 2, 5);

    @SafeVarargs
    @SuppressWarnings("unchecked")
    private static <T> List<T> list(T... items) {
        List<T> list = (List<T>) (List<?>) Nil$.MODULE$;
        for (int i = items.length - 1; i >= 0; i--) {
            list = list.$colon$colon(items[i]);
        }
        return list;
    }

    private static Tuple3<BlockId, Object, Object> block(long attempt, int partition, int mapIndex) {
        return new Tuple3<>(new ShuffleBlockId(7, attempt, partition), 100L, mapIndex);
    }

    @Test
    void blocksOfOneAttemptAreOneOutput() {
        BlockManagerId a = VolumeLocation.of(7, "00000000-0000-0000-0000-00000000000a@h:1");
        BlockManagerId b = VolumeLocation.of(7, "00000000-0000-0000-0000-00000000000b@h:2");
        MapOutputs outputs =
                new MapOutputs(
                        7,
                        RANGE,
                        list(
                                        new Tuple2<>(a, list(block(10, 2, 0), block(10, 4, 0), block(12, 3, 2))),
                                        new Tuple2<>(b, list(block(11, 2, 1))))
                                .iterator());
        assertFalse(outputs.isEmpty());
        assertEquals(4, outputs.blocks());
    }

    @Test
    void withoutBlocksThereIsNothingToRead() {
        assertTrue(new MapOutputs(7, RANGE, list().iterator()).isEmpty());
    }

    @Test
    void locationOfAnotherIsAFetchFailureOfThatOutputUnderThatLocation() {
        BlockManagerId other = BlockManagerId.apply("3", "worker", 5, scala.Option.empty());
        scala.collection.Iterator<?> sizes = list(new Tuple2<>(other, list(block(10, 2, 4)))).iterator();
        // Checked, and thrown where no signature says so.
        Exception thrown = assertThrows(Exception.class, () -> new MapOutputs(7, RANGE, sizes));
        FetchFailed reason = (FetchFailed) ((FetchFailedException) thrown).toTaskFailedReason();
        assertEquals(other, reason.bmAddress());
        assertEquals(7, reason.shuffleId());
        assertEquals(10, reason.mapId());
        assertEquals(4, reason.mapIndex());
        assertEquals(2, reason.reduceId());
    }
}

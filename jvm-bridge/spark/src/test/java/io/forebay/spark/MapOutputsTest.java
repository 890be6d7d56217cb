package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.Failures;
import io.forebay.core.ForebayException;
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
                        true,
                        list(
                                        new Tuple2<>(a, list(block(10, 2, 0), block(10, 4, 0), block(12, 3, 2))),
                                        new Tuple2<>(b, list(block(11, 2, 1))))
                                .iterator());
        assertFalse(outputs.isEmpty());
        assertEquals(4, outputs.blocks());
    }

    @Test
    void withoutBlocksThereIsNothingToRead() {
        assertTrue(new MapOutputs(7, RANGE, true, list().iterator()).isEmpty());
    }

    @Test
    void locationOfAnotherIsAFetchFailureOfThatOutputUnderThatLocation() {
        BlockManagerId other = BlockManagerId.apply("3", "worker", 5, scala.Option.empty());
        scala.collection.Iterator<?> sizes = list(new Tuple2<>(other, list(block(10, 2, 4)))).iterator();
        // Checked, and thrown where no signature says so.
        Exception thrown = assertThrows(Exception.class, () -> new MapOutputs(7, RANGE, true, sizes));
        FetchFailed reason = (FetchFailed) ((FetchFailedException) thrown).toTaskFailedReason();
        assertEquals(other, reason.bmAddress());
        assertEquals(7, reason.shuffleId());
        assertEquals(10, reason.mapId());
        assertEquals(4, reason.mapIndex());
        assertEquals(2, reason.reduceId());
    }

    private static final String A = "00000000-0000-0000-0000-00000000000a@h:1";

    /** Where Spark is told that map 4 could not be read. */
    private static BlockManagerId told(boolean one, String location, ForebayException failure) {
        BlockManagerId place = VolumeLocation.of(7, location);
        MapOutputs outputs = new MapOutputs(7, RANGE, one, list(new Tuple2<>(place, list(block(9, 2, 3), block(10, 2, 4)))).iterator());
        // It throws what it makes, as the compiler does not know.
        Exception thrown = assertThrows(Exception.class, () -> { throw outputs.translate(failure); });
        FetchFailed reason = (FetchFailed) ((FetchFailedException) thrown).toTaskFailedReason();
        assertEquals(10, reason.mapId());
        assertEquals(4, reason.mapIndex());
        return reason.bmAddress();
    }

    private static ForebayException failure(String kind, String message, String... gone) {
        return Failures.of(kind, message, "00000000-0000-0000-0000-00000000000a", 4, 10, gone);
    }

    @Test
    void oneOutputThatIsLostIsToldUnderALocationOfItsOwn() {
        String words = "h:1 has lost a part of shuffle 7, asked twice: attempt 10 of map 4 is missing: a block fails its checksum";
        BlockManagerId volume = VolumeLocation.of(7, A);
        BlockManagerId alone = told(true, A, failure("lost", words));
        assertEquals("forebay-7-00000000-0000-0000-0000-00000000000a-map-4", alone.executorId());
        assertEquals(A, VolumeLocation.parse(alone, 7));
        assertTrue(VolumeLocation.isOfOne(alone));
        assertFalse(VolumeLocation.isOfOne(volume));
        String pair = A + "+00000000-0000-0000-0000-00000000000b@i:2";
        assertEquals(pair, VolumeLocation.parse(told(true, pair, failure("lost", words)), 7));
        // Another volume is gone with it: that has a note of its own.
        assertEquals(alone, told(true, A, failure("lost", words, "00000000-0000-0000-0000-00000000000b")));
        for (ForebayException more :
                new ForebayException[] {
                    failure("lost", words, "00000000-0000-0000-0000-00000000000a"),
                    failure("unavailable", words),
                    failure("corrupt", words),
                    // It stands for all that the volume had.
                    failure("lost", "h:1 has lost its part of shuffle 7: unknown (map 4, attempt 10)"),
                    failure("lost", words.replace("10", "11")),
                    failure("lost", words.replace("map 4", "map 40")),
                }) {
            assertEquals(volume, told(true, A, more), more.getMessage());
        }
        assertEquals(volume, told(false, A, failure("lost", words)));
    }

    @Test
    void itIsToldWhileTheStageHasAttemptsLeft() {
        assertTrue(SingleLoss.mayBeTold(true, 0, 4) && SingleLoss.mayBeTold(true, 1, 4));
        assertFalse(SingleLoss.mayBeTold(true, 2, 4) || SingleLoss.mayBeTold(true, 0, 2));
        assertFalse(SingleLoss.mayBeTold(false, 0, 4));
    }
}

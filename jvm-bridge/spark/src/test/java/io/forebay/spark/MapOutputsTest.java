package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.Failures;
import io.forebay.core.ForebayException;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
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

    private static final String VOLUME = "00000000-0000-0000-0000-00000000000a";

    private static ForebayException failure(String kind, String lost, String... gone) {
        return Failures.ofSingle(kind, lost, VOLUME, 4, 10, gone);
    }

    @Test
    void oneOutputThatIsLostIsToldUnderALocationOfItsOwn() {
        String lost = "4/10/" + VOLUME;
        String more = "3/9/" + VOLUME + "," + lost;
        BlockManagerId volume = VolumeLocation.of(7, A);
        BlockManagerId alone = told(true, A, failure("lost", lost));
        assertEquals("forebay-7-00000000-0000-0000-0000-00000000000a-map-4", alone.executorId());
        assertEquals(A, VolumeLocation.parse(alone, 7));
        assertTrue(VolumeLocation.isOfOne(alone));
        assertFalse(VolumeLocation.isOfOne(volume));
        assertEquals(alone, told(true, A, failure("corrupt", lost)));
        assertEquals(alone, told(true, A, failure("lost", more)));
        String pair = A + "+00000000-0000-0000-0000-00000000000b@i:2";
        assertEquals(pair, VolumeLocation.parse(told(true, pair, failure("lost", lost)), 7));
        // Another volume is gone with it: that has a note of its own.
        assertEquals(alone, told(true, A, failure("lost", lost, "00000000-0000-0000-0000-00000000000b")));
        String many = IntStream.rangeClosed(0, GoneNote.MOST_LOST).mapToObj(map -> map + "/" + (map + 6) + "/" + VOLUME).collect(Collectors.joining(","));
        for (ForebayException whole :
                new ForebayException[] {
                    failure("lost", lost, VOLUME),
                    // It stands for all that the volume had.
                    failure("lost", ""),
                    failure("unavailable", ""),
                    failure("lost", "3/9/" + VOLUME),
                    failure("lost", "4/11/" + VOLUME),
                    failure("lost", "40/10/" + VOLUME),
                    // More than can be named.
                    failure("lost", many),
                }) {
            assertEquals(volume, told(true, A, whole));
        }
        assertEquals(volume, told(false, A, failure("lost", lost)));
    }

    @Test
    void allOutputsThatAreLostAreToldWithOne() {
        ForebayException failure = failure("lost", "3/9/" + VOLUME + ",4/10/" + VOLUME + ",4294967295/18446744073709551615/" + VOLUME);
        Map<Integer, Long> lost = GoneNote.in("a" + GoneNote.of(failure, A) + " b").lost();
        Map<Integer, Long> expected = new HashMap<>();
        expected.put(3, 9L);
        expected.put(4, 10L);
        expected.put(-1, -1L);
        assertEquals(expected, lost);
    }

    @Test
    void itIsToldWhileTheStageHasAttemptsLeft() {
        assertTrue(SingleLoss.mayBeTold(true, 0, 4) && SingleLoss.mayBeTold(true, 1, 4));
        assertFalse(SingleLoss.mayBeTold(true, 2, 4) || SingleLoss.mayBeTold(true, 0, 2));
        assertFalse(SingleLoss.mayBeTold(false, 0, 4));
    }
}

package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.storage.BlockManagerId;
import org.junit.jupiter.api.Test;

/**
 * On the line that we compile against; the others are covered by the Spark tests, with the same
 * jar.
 */
class ShimTest {
    @Test
    void mapStatusIsMadeWithItsSizesAndItsAttempt() {
        BlockManagerId location = VolumeLocation.of(7, "v@h:1");
        MapStatus status = Shim.mapStatus(location, new long[] {0, 1, 1000}, 42, 5);
        assertEquals(42, status.mapId());
        assertSame(location, status.location());
        assertEquals(0, status.getSizeForBlock(0));
        assertNotEquals(0, status.getSizeForBlock(1));
    }

    @Test
    void lineWithoutRowChecksumsHasNone() {
        assertEquals(0, Shim.aggregate(new Object[0]));
    }

    @Test
    void scalaCollectionsAreIterated() {
        scala.collection.Iterator<String> iterator = Shim.iterate(scala.collection.immutable.Nil$.MODULE$.$colon$colon("a"));
        assertEquals("a", iterator.next());
        assertEquals(false, iterator.hasNext());
    }

    @Test
    void locationNamesOneVolumesPartOfOneShuffleAndSurvivesSerialisation() throws Exception {
        BlockManagerId location = VolumeLocation.of(7, "0f0e@10.0.0.1:7400");
        assertEquals("forebay-7-0f0e", location.executorId());
        assertEquals("0f0e.forebay", location.host());
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(location);
        }
        BlockManagerId copy = (BlockManagerId) new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())).readObject();
        assertEquals(location, copy);
        assertEquals("0f0e@10.0.0.1:7400", VolumeLocation.parse(copy, 7));
    }

    @Test
    void locationOfTwoCopiesNamesWhatTwoVolumesHaveInCommon() {
        BlockManagerId location = VolumeLocation.of(7, "0a@h:1+0b@[::1]:2");
        assertEquals("forebay-7-0a+0b", location.executorId());
        assertEquals("0a@h:1+0b@[::1]:2", VolumeLocation.parse(location, 7));
    }

    @Test
    void locationsOfOthersAreNotOurs() {
        assertNull(VolumeLocation.parse(null, 7));
        assertNull(VolumeLocation.parse(VolumeLocation.of(70, "v@h:1"), 7));
        assertNull(VolumeLocation.parse(VolumeLocation.nowhere(7), 7));
        assertNull(VolumeLocation.parse(BlockManagerId.apply("3", "worker", 5, scala.Option.empty()), 7));
    }
}

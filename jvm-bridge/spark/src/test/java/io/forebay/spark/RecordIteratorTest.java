package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.BlockReader.Block;
import java.io.ByteArrayOutputStream;
import java.util.Random;
import org.apache.spark.SparkConf;
import org.apache.spark.serializer.JavaSerializer;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.serializer.SerializerInstance;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import scala.reflect.ClassTag;

class RecordIteratorTest {
    private static final ClassTag<Object> ANY = scala.reflect.ClassTag$.MODULE$.Object();

    private final BlocksForTests blocks = new BlocksForTests();
    private final SerializerInstance java = new JavaSerializer(new SparkConf(false)).newInstance();
    private int ended;

    @AfterEach
    void close() {
        blocks.close();
    }

    private byte[] chunk(int from, int to) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (SerializationStream stream = java.serializeStream(bytes)) {
            for (int i = from; i < to; i++) {
                stream.writeKey(i, ANY);
                stream.writeValue("v" + i, ANY);
            }
        }
        return bytes.toByteArray();
    }

    private RecordIterator<Object, Object> iterator() {
        return new RecordIterator<>(blocks, java, false, () -> ended++);
    }

    @Test
    void closedStreamsAreReadOneByOne() {
        blocks.blocks.add(3, chunk(0, 3)).add(1, chunk(3, 4)).add(2, chunk(4, 6));
        RecordIterator<Object, Object> records = iterator();
        for (int i = 0; i < 6; i++) {
            scala.Product2<Object, Object> record = records.next();
            assertEquals(i, record._1());
            assertEquals("v" + i, record._2());
        }
        assertEquals(false, records.hasNext());
        assertEquals(6, blocks.counted());
        assertEquals(0, blocks.blocks.lent());
        assertEquals(1, ended);
    }

    @Test
    void longStreamsComeFromTheHeapBetweenOthers() {
        blocks.blocks.addLong(3, chunk(0, 3)).add(1, chunk(3, 4)).addLong(1, chunk(4, 5)).addLong(1, chunk(5, 6)).add(2, chunk(6, 8));
        RecordIterator<Object, Object> records = iterator();
        for (int i = 0; i < 8; i++) {
            assertEquals("v" + i, records.next()._2());
        }
        assertEquals(false, records.hasNext());
        assertEquals(8, blocks.counted());
        assertEquals(0, blocks.blocks.lent());
        assertEquals(1, ended);
    }

    @Test
    void oneStreamGoesOnOverLongRecords() throws Exception {
        ByteArrayOutputStream expected = new ByteArrayOutputStream();
        for (int length : new int[] {5, 100_000, -200_000, -3, 7, -90_000}) {
            byte[] bytes = new byte[Math.abs(length)];
            new Random(length).nextBytes(bytes);
            expected.write(bytes);
            if (length < 0) {
                blocks.blocks.addLong(1, bytes);
            } else {
                blocks.blocks.add(1, bytes);
            }
        }
        Block block = new Block();
        assertTrue(blocks.next(block));
        ByteArrayOutputStream read = new ByteArrayOutputStream();
        byte[] some = new byte[33_333];
        try (BlockStream stream = new BlockStream(blocks, block, true)) {
            read.write(stream.read());
            for (int n = stream.read(some); n >= 0; n = stream.read(some)) {
                read.write(some, 0, n);
            }
            assertEquals(6, stream.records());
        }
        assertArrayEquals(expected.toByteArray(), read.toByteArray());
        assertEquals(0, blocks.blocks.lent());
    }

    @Test
    void streamThatEndsBeforeItsRecordsDoIsAnError() {
        blocks.blocks.add(3, chunk(0, 2));
        RecordIterator<Object, Object> records = iterator();
        records.next();
        records.next();
        String message = assertThrows(IllegalStateException.class, records::hasNext).getMessage();
        assertTrue(message.contains("3 records") && message.contains("made 2"), message);
        assertEquals(message, assertThrows(IllegalStateException.class, records::hasNext).getMessage());
        assertEquals(message, assertThrows(IllegalStateException.class, records::next).getMessage());
        assertEquals(0, ended);
    }

    @Test
    void failureIsNotTheEndWhenItIsAskedAgain() {
        IllegalStateException gone = new IllegalStateException("gone");
        blocks.blocks.add(2, chunk(0, 2)).fail(gone);
        RecordIterator<Object, Object> records = iterator();
        records.next();
        records.next();
        for (int i = 0; i < 3; i++) {
            assertSame(gone, assertThrows(IllegalStateException.class, records::hasNext));
            assertSame(gone, assertThrows(IllegalStateException.class, records::next));
        }
        assertTrue(blocks.blocks.isClosed());
        assertEquals(0, ended);
    }

    @Test
    void deserialiserThatFailedIsNotAskedAgain() {
        byte[] bytes = chunk(0, 2);
        bytes[0] ^= 0x7f;
        blocks.blocks.add(2, bytes).add(1, chunk(2, 3));
        RecordIterator<Object, Object> records = iterator();
        Throwable first = assertThrows(Throwable.class, () -> drain(records));
        assertSame(first, assertThrows(Throwable.class, records::hasNext));
        assertSame(first, assertThrows(Throwable.class, records::next));
        assertTrue(blocks.blocks.isClosed());
    }

    private static void drain(RecordIterator<Object, Object> records) {
        while (records.hasNext()) {
            records.next();
        }
    }

    @Test
    void streamOfATaskThatHasEndedIsAnErrorAndNoFreedMemory() {
        blocks.blocks.add(1, new byte[200_000]).add(1, new byte[] {4});
        Block block = new Block();
        blocks.next(block);
        BlockStream stream = new BlockStream(blocks, block, true);
        assertEquals(0, stream.read());
        blocks.source.close();
        byte[] bytes = new byte[300_000];
        // What is on the heap already.
        int n = stream.read(bytes, 0, bytes.length);
        assertTrue(n > 0 && n < 200_000);
        for (int i = 0; i < 2; i++) {
            assertThrows(IllegalStateException.class, stream::read);
            assertThrows(IllegalStateException.class, () -> stream.read(bytes, 0, 1));
        }
        stream.finish();
    }

    @Test
    void streamOverAllBlocksJoinsTheirBytesAndFreesEachWhenItIsRead() {
        blocks.blocks.add(1, new byte[] {1, 2, 3}).add(1, new byte[] {4}).add(2, new byte[] {5, 6});
        Block block = new Block();
        blocks.next(block);
        BlockStream stream = new BlockStream(blocks, block, true);
        byte[] bytes = new byte[8];
        assertEquals(3, stream.available());
        assertEquals(3, stream.read(bytes, 0, 8));
        assertEquals(0, blocks.blocks.lent());
        assertEquals(1, stream.read(bytes, 3, 5));
        assertEquals(5, stream.read());
        assertEquals(1, stream.available());
        assertEquals(1, stream.read(bytes, 4, 1));
        assertArrayEquals(new byte[] {1, 2, 3, 4, 6, 0, 0, 0}, bytes);
        assertEquals(-1, stream.read());
        assertEquals(-1, stream.read(bytes, 0, 8));
        assertEquals(4, stream.records());
        assertEquals(0, blocks.blocks.lent());
    }

    @Test
    void recordsOfAPartitionMayBeMoreThanAnIntCounts() {
        for (int block = 0; block < 3; block++) {
            blocks.blocks.add(Integer.MAX_VALUE, new byte[] {1});
        }
        Block block = new Block();
        blocks.next(block);
        BlockStream stream = new BlockStream(blocks, block, true);
        while (stream.read() >= 0) {}
        assertEquals(3L * Integer.MAX_VALUE, stream.records());
    }
}

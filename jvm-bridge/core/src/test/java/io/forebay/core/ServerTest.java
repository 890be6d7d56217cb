package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The public API against a real server process, as the Spark plugin uses it. Skipped where no
 * server was built.
 */
@Timeout(120)
class ServerTest {
    private static final long ARENA = 1 << 18;
    private static final int PARTITIONS = 7;
    private static final Caller CALLER = new Caller("app-1", "secret", 60_000);

    @TempDir Path directory;

    private Process server;
    private String address;
    private ForebayClient client;
    private String compression = "lz4";

    @BeforeEach
    void start() throws Exception {
        File program = new File(System.getProperty("forebay.test.server"));
        assumeTrue(program.canExecute(), "build the server first: cargo build --release -p shuffle-server");
        Path ready = directory.resolve("ready");
        server =
                new ProcessBuilder(
                                program.getPath(),
                                "--allow-root-device", // temporary directories mostly lie there
                                "--data-dir",
                                directory.resolve("data").toString(),
                                "--listen",
                                "127.0.0.1:0",
                                "--admin-listen",
                                "127.0.0.1:0",
                                "--ready-file",
                                ready.toString())
                        .redirectErrorStream(true)
                        .redirectOutput(directory.resolve("log").toFile())
                        .start();
        for (int i = 0; i < 1500 && address == null; i++) {
            Thread.sleep(20);
            String line = Files.exists(ready) ? new String(Files.readAllBytes(ready), StandardCharsets.UTF_8) : "";
            for (String word : line.endsWith("\n") ? line.trim().split(" ") : new String[0]) {
                address = word.startsWith("data=") ? word.substring(5) : address;
            }
        }
        client = ForebayClient.open(new ClientSettings(Collections.singleton(address)).set("retry_deadline_ms", 5_000));
        client.openApp(CALLER, InterruptCheck.THREAD);
    }

    @AfterEach
    void stop() throws Exception {
        if (client != null) {
            client.close();
        }
        if (server != null) {
            server.destroyForcibly().waitFor();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"none", "lz4", "zstd", "zstd:9"})
    void recordsArriveAsTheyWereWritten(String codec) throws Exception {
        compression = codec;
        String[] candidates = client.placeShuffle("app-1", 5, 3, PARTITIONS);
        assertArrayEquals(new String[] {address}, candidates);
        List<ByteArrayOutputStream> expected = new ArrayList<>();
        long[] records = new long[PARTITIONS];
        for (int p = 0; p < PARTITIONS; p++) {
            expected.add(new ByteArrayOutputStream());
        }
        ReadPlan plan = new ReadPlan(0, PARTITIONS, 0, Integer.MAX_VALUE);
        for (int map = 0; map < 3; map++) {
            CommittedOutput output = write(map, candidates, new Random(map), map == 1 ? expected : null, records);
            plan.output(output.location(), map, 100 + map);
            for (int p = 0; p < PARTITIONS; p++) {
                if (output.partitionLengths()[p] > 0) {
                    plan.partition(p);
                }
            }
        }
        // Partition 3 is never written to.
        long[] read = new long[PARTITIONS];
        ByteArrayOutputStream[] second = new ByteArrayOutputStream[PARTITIONS];
        int joined = 0;
        try (BlockReader reader = client.openReader(CALLER, 5, plan, 0, InterruptCheck.THREAD)) {
            BlockReader.Block block = new BlockReader.Block();
            while (reader.next(block)) {
                read[block.partition()] += block.records();
                assertEquals(100 + block.mapIndex(), block.attempt());
                if (block.mapIndex() == 1) {
                    ByteArrayOutputStream bytes = second[block.partition()];
                    second[block.partition()] = bytes == null ? new ByteArrayOutputStream() : bytes;
                    byte[] lent = block.heap() == null ? Memory.get(block.address(), block.length()) : null;
                    second[block.partition()].write(lent == null ? Arrays.copyOf(block.heap(), (int) block.length()) : lent);
                    joined += lent == null ? 1 : 0;
                }
                reader.release(block);
                assertFalse(block.isHeld());
            }
            assertEquals(1, joined, "the long byte string, and nothing else, comes on the heap");
            assertFalse(reader.next(block));
            assertTrue(reader.stats().blocks() > 0 && reader.stats().bytes() > 0);
            ServerStats server = reader.servers().get(0);
            assertEquals(address, server.address());
            assertEquals(reader.stats().bytes(), server.bytes());
            assertEquals(reader.stats().blocks(), server.blocks());
            assertEquals("", server.lastFailure());
        }
        assertArrayEquals(records, read);
        assertEquals(0, read[3]);
        for (int p = 0; p < PARTITIONS; p++) {
            if (p != 3) {
                assertArrayEquals(expected.get(p).toByteArray(), second[p].toByteArray(), "partition " + p);
            }
        }
    }

    @Test
    void whatIsEncryptedIsReadWithItsKeyOnly() throws Exception {
        client.close();
        client = encrypted(1);
        client.openApp(CALLER, InterruptCheck.THREAD);
        recordsArriveAsTheyWereWritten("zstd");
        CommittedOutput output = write(0, client.placeShuffle("app-1", 5, 3, PARTITIONS), new Random(0), null, new long[PARTITIONS]);
        ReadPlan plan = new ReadPlan(0, 1, 0, Integer.MAX_VALUE);
        plan.output(output.location(), 0, 100);
        plan.partition(0);
        try (ForebayClient other = encrypted(2);
                BlockReader reader = other.openReader(CALLER, 5, plan, 0, InterruptCheck.THREAD)) {
            ForebayException e = assertThrows(ForebayException.class, () -> reader.next(new BlockReader.Block()));
            assertEquals("corrupt", e.kind());
            assertTrue(e.getMessage().contains("another key"), e.getMessage());
        }
    }

    private ForebayClient encrypted(int key) {
        byte[] bytes = new byte[16];
        bytes[0] = (byte) key;
        return ForebayClient.open(new ClientSettings(Collections.singleton(address)).set("retry_deadline_ms", 5_000).encrypt(bytes));
    }

    @Test
    void aShuffleThatWasDeletedIsLostAndNeverEmpty() throws Exception {
        String[] candidates = client.placeShuffle("app-1", 5, 1, PARTITIONS);
        CommittedOutput output = write(0, candidates, new Random(1), null, new long[PARTITIONS]);
        client.deleteShuffle("app-1", 5, InterruptCheck.THREAD);
        ReadPlan plan = new ReadPlan(0, 1, 0, Integer.MAX_VALUE);
        plan.output(output.location(), 0, 100);
        plan.partition(0);
        try (BlockReader reader = client.openReader(CALLER, 5, plan, 0, InterruptCheck.THREAD)) {
            ForebayException e = assertThrows(ForebayException.class, () -> reader.next(new BlockReader.Block()));
            assertEquals("lost", e.kind());
            assertTrue(output.location().startsWith(e.volume() + "@"), output.location());
            assertEquals(0, e.mapIndex());
            assertEquals(100, e.attempt());
            ServerStats server = reader.servers().get(0);
            assertTrue(server.failures() > 0 && !server.lastFailure().isEmpty(), server.lastFailure());
        }
        client.closeApp("app-1", InterruptCheck.THREAD);
        assertThrows(ForebayException.class, () -> client.placeShuffle("app-1", 6, 1, 1));
    }

    @Test
    void afterAPartThatFailedNothingCanBeAddedOrCommitted() {
        String[] candidates = client.placeShuffle("app-1", 8, 1, PARTITIONS);
        ShuffleLayout layout = new ShuffleLayout(1, PARTITIONS, candidates, "disk", compression);
        byte[] long1 = new byte[3 << 20];
        try (MapOutputWriter writer = client.openWriter(CALLER, new MapAttempt(8, 0, 100), layout, ARENA, InterruptCheck.THREAD)) {
            writer.part(1, long1, 0, 100, 0, true);
            assertThrows(ForebayException.class, () -> writer.part(2, long1, 0, 100, 1, false));
            assertThrows(IllegalStateException.class, () -> writer.part(1, long1, 0, 100, 1, false));
            assertThrows(IllegalStateException.class, () -> writer.block(1, long1, 0, long1.length, 1));
            assertThrows(IllegalStateException.class, writer::commit);
        }
    }

    @Test
    void anotherTokenIsDenied() {
        try (ForebayClient other = ForebayClient.open(new ClientSettings(Collections.singleton(address)))) {
            Caller stranger = new Caller("app-1", "guess", 60_000);
            ForebayException e = assertThrows(ForebayException.class, () -> other.openApp(stranger, InterruptCheck.THREAD));
            assertEquals("denied", e.kind());
            assertFalse(e.getMessage().contains("guess"), e.getMessage());
        }
    }

    /** Fills the arena again and again, with a long byte string in between. */
    private CommittedOutput write(int map, String[] candidates, Random random, List<ByteArrayOutputStream> copy, long[] records)
            throws Exception {
        try (MapOutputWriter writer =
                client.openWriter(
                        CALLER,
                        new MapAttempt(5, map, 100 + map),
                        new ShuffleLayout(3, PARTITIONS, candidates, "disk", compression),
                        ARENA,
                        InterruptCheck.THREAD)) {
            int count = 0;
            int written = 0;
            long used = 0;
            for (int i = 0; i < 5_000; i++) {
                byte[] record = new byte[1 + random.nextInt(300)];
                random.nextBytes(record);
                int partition = random.nextInt(PARTITIONS);
                if (partition == 3) {
                    continue;
                }
                if (used + record.length + 8L * (count + 1) > ARENA) {
                    writer.flush(count, used);
                    count = 0;
                    used = 0;
                }
                Memory.put(writer.arenaAddress() + used, record);
                Memory.putLong(writer.arenaAddress() + ARENA - 8L * (count + 1), (long) partition << 32 | used);
                count++;
                used += record.length;
                put(copy, records, partition, record);
                written++;
            }
            writer.flush(count, used);
            byte[] large = new byte[3 << 20];
            random.nextBytes(large);
            writer.block(6, large, 0, large.length, 1);
            put(copy, records, 6, large);
            CommittedOutput output = writer.commit();
            assertTrue(output.location().endsWith("@" + address), output.location());
            assertEquals(0, output.partitionLengths()[3]);
            assertNotEquals(0, output.partitionLengths()[6]);
            assertEquals(written + 1, writer.stats().records());
            return output;
        }
    }

    private static void put(List<ByteArrayOutputStream> copy, long[] records, int partition, byte[] record) throws Exception {
        if (copy != null) {
            copy.get(partition).write(record);
        }
        records[partition]++;
    }
}

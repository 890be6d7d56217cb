package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.Collections;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;

/**
 * The crossing itself: ids, arguments, panics, waits. The server here is a socket that takes
 * connections and never answers.
 */
@Timeout(60)
class NativeTest {
    private static final long ARENA = 1 << 20;

    private ServerSocket silent;
    private String address;
    private long client;

    @BeforeEach
    void openClient() throws Exception {
        silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        address = "127.0.0.1:" + silent.getLocalPort();
        NativeLibrary.load();
        client = Native.clientOpen(new ClientSettings(Collections.singleton(address)).json(), null);
    }

    @AfterEach
    void closeClient() throws Exception {
        Native.clientClose(client);
        silent.close();
    }

    @Test
    void aPanicBecomesAnExceptionAndTheLibraryGoesOn() {
        ForebayException e = assertThrows(ForebayException.class, () -> Native.panic("on purpose, ä€😀"));
        assertEquals("internal", e.kind());
        assertTrue(e.getMessage().contains("on purpose, ä€😀"), e.getMessage());
        assertNull(e.volume());
        assertEquals(-1, e.mapIndex());
        assertEquals(NativeLibrary.VERSION, Native.version());
    }

    @Test
    void aClosedIdIsRefusedAndClosingTwiceDoesNothing() {
        long writer = openWriter();
        assertTrue(Native.writerArena(writer) != 0);
        Native.writerClose(writer);
        Native.writerClose(writer);
        assertInvalid("closed", () -> Native.writerArena(writer));
        assertInvalid("closed", () -> Native.writerFlush(writer, 0, 0, 0));
        assertInvalid("closed", () -> Native.writerCommit(writer, 0));
    }

    @Test
    void anIdOfAnotherKindOrNoIdAtAllIsRefused() {
        for (long id : new long[] {client, 0, 1, -1, Long.MIN_VALUE, Long.MAX_VALUE}) {
            assertInvalid("writer", () -> Native.writerArena(id));
            assertInvalid("writer", () -> Native.writerClose(id));
            assertInvalid("reader", () -> Native.readerNext(id, 0, new long[9]));
            assertInvalid("reader", () -> Native.readerTake(id, 1, new byte[1], 0));
        }
    }

    @Test
    void argumentsThatCannotBeAreNamed() {
        long writer = openWriter();
        try {
            assertInvalid("app", () -> openWriter(null, "disk", ARENA, 0));
            assertInvalid("app", () -> openWriter("../x", "disk", ARENA, 0));
            assertInvalid("durability", () -> openWriter("app", "paper", ARENA, 0));
            assertInvalid("arenaBytes", () -> openWriter("app", "disk", 4097, 0));
            assertInvalid("arenaBytes", () -> openWriter("app", "disk", -1, 0));
            assertInvalid("mapIndex", () -> openWriter("app", "disk", ARENA, -1));
            assertInvalid("timeoutMillis", () -> Native.writerCommit(writer, -1));
            assertInvalid("records", () -> Native.writerFlush(writer, -1, 0, 0));
            assertInvalid("records", () -> Native.writerFlush(writer, Integer.MAX_VALUE, 0, 0));
            assertInvalid("dataBytes", () -> Native.writerFlush(writer, 1, ARENA, 0));
            assertInvalid("dataBytes", () -> Native.writerFlush(writer, 1, -1, 0));
            for (boolean packed : new boolean[] {false, true}) {
                assertInvalid("partition", () -> Native.writerBlock(writer, 4, new byte[1], 0, 1, 1, packed));
                for (int[] region : new int[][] {{0, 5}, {4, 1}, {-1, 1}, {0, -1}, {Integer.MAX_VALUE, Integer.MAX_VALUE}}) {
                    assertInvalid("", () -> Native.writerBlock(writer, 0, new byte[4], region[0], region[1], 1, packed));
                }
                assertThrows(ForebayException.class, () -> Native.writerBlock(writer, 0, null, 0, 1, 1, packed));
                assertInvalid("length", () -> Native.writerBlock(writer, 0, new byte[1], 0, 0, 1, packed));
            }
            for (int[] region : new int[][] {{0, 5}, {4, 1}, {-1, 1}, {0, -1}}) {
                assertInvalid("", () -> Native.writerPart(writer, 0, new byte[4], region[0], region[1], 1, true));
            }
            assertThrows(ForebayException.class, () -> Native.writerPart(writer, 0, null, 0, 1, 1, true));
            assertInvalid("location", () -> Native.writerLocation(writer));
            assertInvalid("colour", () -> Native.clientOpen("{\"servers\":[\"a:1\"],\"colour\":1}", null));
            assertInvalid("settings", () -> Native.clientOpen(null, null));
            for (int length : new int[] {0, 15, 65, 1 << 20}) {
                assertInvalid("key", () -> Native.clientOpen("{\"servers\":[\"a:1\"]}", new byte[length]));
            }
            assertInvalid("compression", () -> openWriter("app", "disk", "snappy", ARENA, 0));
        } finally {
            Native.writerClose(writer);
        }
    }

    @Test
    void recordsThatWouldLeaveTheArenaAreRefused() {
        long writer = openWriter();
        try {
            long arena = Native.writerArena(writer);
            Memory.putLong(arena + ARENA - 8, 3L << 32);
            for (long second : new long[] {4L << 32 | 10, 1L << 32 | 100, 1L << 32, -1}) {
                Memory.putLong(arena + ARENA - 16, second);
                assertInvalid("record ", () -> Native.writerFlush(writer, 2, 100, 0));
            }
        } finally {
            Native.writerClose(writer);
        }
    }

    @Test
    void aCallReturnsWithItsTimeOut() {
        long writer = openWriter();
        try {
            long start = System.nanoTime();
            assertNull(Native.writerCommit(writer, 50));
            long waited = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
            assertTrue(waited >= 49 && waited < 2000, waited + " ms");
        } finally {
            Native.writerClose(writer);
        }
    }

    @Test
    void anInterruptEndsAWaitAndStaysSet() throws Exception {
        ClientSettings settings = new ClientSettings(Collections.singleton(address));
        AtomicReference<Throwable> thrown = new AtomicReference<>();
        Thread thread =
                new Thread(
                        () -> {
                            try (ForebayClient client = ForebayClient.open(settings);
                                    MapOutputWriter writer = openWriter(client, InterruptCheck.THREAD)) {
                                writer.commit();
                            } catch (Throwable e) {
                                thrown.set(Thread.currentThread().isInterrupted() ? e : new AssertionError("flag lost", e));
                            }
                        });
        thread.start();
        Thread.sleep(200);
        assertTrue(thread.isAlive());
        long start = System.nanoTime();
        thread.interrupt();
        thread.join(10_000);
        assertSame(WaitInterruptedException.class, thrown.get().getClass());
        assertTrue(System.nanoTime() - start < TimeUnit.SECONDS.toNanos(2));
    }

    @Test
    void whatAnInterruptCheckThrowsLeavesTheWaitAsItIs() {
        IllegalStateException killed = new IllegalStateException("task killed");
        try (ForebayClient client = ForebayClient.open(new ClientSettings(Collections.singleton(address)))) {
            InterruptCheck check = () -> { throw killed; };
            try (MapOutputWriter writer = openWriter(client, check)) {
                assertSame(killed, assertThrows(IllegalStateException.class, writer::commit));
            }
            assertSame(killed, assertThrows(IllegalStateException.class, () -> client.openApp(caller(), check)));
        }
    }

    @Test
    void closingFromAnotherThreadLetsTheCallInsideEnd() throws Exception {
        for (int round = 0; round < 20; round++) {
            long writer = openWriter();
            AtomicReference<Object> answer = new AtomicReference<>("none");
            Thread inside = new Thread(() -> answer.set(Native.writerCommit(writer, 100)));
            inside.start();
            Thread.sleep(round);
            Native.writerClose(writer);
            assertInvalid("closed", () -> Native.writerArena(writer));
            inside.join(10_000);
            assertFalse(inside.isAlive());
        }
    }

    @Test
    void aSecondThreadInsideIsToldSo() throws Exception {
        long writer = openWriter();
        Thread inside = new Thread(() -> Native.writerCommit(writer, 1000));
        inside.start();
        Thread.sleep(200);
        assertInvalid("another thread", () -> Native.writerStats(writer));
        inside.join();
        Native.writerClose(writer);
    }

    @Test
    void aWriterThatIsClosedGivesItsArenaToTheNext() {
        long first = openWriter();
        long arena = Native.writerArena(first);
        Native.writerClose(first);
        long second = openWriter();
        assertEquals(arena, Native.writerArena(second));
        Native.writerClose(second);
    }

    @Test
    void anEmptyPlanEndsAtOnceAndABadOneIsRefused() {
        try (ForebayClient client = ForebayClient.open(new ClientSettings(Collections.singleton(address)))) {
            ReadPlan empty = new ReadPlan(0, 4, 0, Integer.MAX_VALUE);
            assertTrue(empty.isEmpty());
            try (BlockReader reader = client.openReader(caller(), 1, empty, 0, InterruptCheck.THREAD)) {
                assertFalse(reader.next(new BlockReader.Block()));
                assertFalse(reader.next(new BlockReader.Block()));
                assertEquals(0, reader.stats().blocks());
            }
            ReadPlan bad = new ReadPlan(0, 4, 0, Integer.MAX_VALUE);
            bad.output("nowhere", 0, 0);
            assertInvalid("location", () -> client.openReader(caller(), 1, bad, 0, InterruptCheck.THREAD));
        }
    }

    private long openWriter() {
        return openWriter("app", "disk", ARENA, 0);
    }

    private long openWriter(String app, String durability, long arenaBytes, int mapIndex) {
        return openWriter(app, durability, "lz4", arenaBytes, mapIndex);
    }

    private long openWriter(String app, String durability, String compression, long arenaBytes, int mapIndex) {
        String[] candidates = {address};
        return Native.writerOpen(client, app, "token", 60_000, 1, 2, 4, mapIndex, 7, durability, candidates, compression, arenaBytes);
    }

    private MapOutputWriter openWriter(ForebayClient client, InterruptCheck check) {
        ShuffleLayout layout = new ShuffleLayout(2, 4, new String[] {address}, "disk", "lz4");
        return client.openWriter(caller(), new MapAttempt(1, 0, 7), layout, ARENA, check);
    }

    private static Caller caller() {
        return new Caller("app", "token", 60_000);
    }

    private static void assertInvalid(String word, Executable call) {
        ForebayException e = assertThrows(ForebayException.class, call);
        assertEquals("invalid", e.kind(), e.getMessage());
        assertTrue(e.getMessage().contains(word), e.getMessage());
    }
}

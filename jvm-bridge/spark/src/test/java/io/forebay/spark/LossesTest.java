package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.ServerView;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.BiPredicate;
import org.apache.spark.FetchFailed;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.storage.BlockManagerId;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class LossesTest {
    private static final String A = "a:7400";
    private static final String B = "b:7400";

    /** What Spark's tracker has. */
    private final Set<BlockManagerId> registered = Collections.synchronizedSet(new HashSet<>());

    /**
     * Outputs that Spark has been made to forget one by one, as {@code shuffle/map/attempt}; all
     * are on {@link #one}.
     */
    private final List<String> single = Collections.synchronizedList(new ArrayList<>());

    private BlockManagerId one;

    private final List<ServerView> known = Collections.synchronizedList(new ArrayList<>());
    private final List<ServerView> now = Collections.synchronizedList(new ArrayList<>());
    private volatile int looks;
    private Losses losses;

    private void start(boolean store, long retryMillis) {
        losses = new Losses(new Tracker(), new Servers(), store, retryMillis);
    }

    @AfterEach
    void stop() {
        losses.stop();
    }

    private final class Tracker implements Losses.Outputs {
        @Override
        public Set<BlockManagerId> places() {
            return new HashSet<>(registered);
        }

        @Override
        public int forget(BiPredicate<Integer, BlockManagerId> gone) {
            Set<BlockManagerId> lost = places();
            lost.removeIf(place -> !gone.test(Integer.valueOf(place.executorId().split("-")[1]), place));
            registered.removeAll(lost);
            return lost.size();
        }

        @Override
        public BlockManagerId forget(int shuffle, int mapIndex, long attempt) {
            String output = shuffle + "/" + mapIndex + "/" + attempt;
            if (single.contains(output)) {
                return null;
            }
            single.add(output);
            return one;
        }
    }

    private final class Servers implements Losses.Pool {
        @Override
        public List<ServerView> known() {
            return new ArrayList<>(known);
        }

        @Override
        public List<ServerView> look(Collection<String> addresses) {
            looks++;
            return new ArrayList<>(now);
        }
    }

    private static String volume(int number) {
        return String.format("00000000-0000-0000-0000-%012d", number);
    }

    private static BlockManagerId at(int shuffle, int volume, String address) {
        return VolumeLocation.of(shuffle, volume(volume) + "@" + address);
    }

    private static ServerView server(String address, boolean store, int... volumes) {
        Set<String> ids = new HashSet<>();
        for (int volume : volumes) {
            ids.add(volume(volume));
        }
        return new ServerView(address, true, store, ids);
    }

    private static ServerView silent(String address) {
        return new ServerView(address, false, false, Collections.emptySet());
    }

    private void failed(BlockManagerId place, int shuffle, int attempt, String note) {
        FetchFailed reason = new FetchFailed(place, shuffle, 1L, 0, 0, "why" + note);
        losses.onTaskEnd(new SparkListenerTaskEnd(9, attempt, "ResultTask", reason, null, null, null));
    }

    private void eventually(Runnable check) throws InterruptedException {
        for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20); ; ) {
            try {
                check.run();
                return;
            } catch (AssertionError e) {
                if (System.nanoTime() > end) {
                    throw e;
                }
                Thread.sleep(10);
            }
        }
    }

    @Test
    void oneFailureForgetsAllOfADeadServerAtOnce() {
        start(false, 60_000);
        for (int volume = 0; volume < 12; volume++) {
            registered.add(at(3, volume, A));
            registered.add(at(4, volume, A));
        }
        registered.add(at(3, 20, B));
        known.add(server(B, false, 20));
        now.addAll(Arrays.asList(silent(A), server(B, false, 20)));
        failed(at(3, 0, A), 3, 0, " [gone: ; silent: " + A + "; lost: ;]");
        assertEquals(Collections.singleton(at(3, 20, B)), registered);
    }

    @Test
    void oneFailureForgetsWhatOtherServersHaveLostToo() throws InterruptedException {
        start(false, 60_000);
        for (int number = 0; number < 8; number++) {
            String address = "s" + number + ":7400";
            registered.add(at(3, number, address));
            // What the driver was told some seconds ago is old.
            known.add(server(address, false, number));
            now.add(server(address, false, number == 7 ? 7 : number + 100));
        }
        failed(at(3, 0, "s0:7400"), 3, 0, " [gone: " + volume(0) + "; silent: ; lost: ;]");
        eventually(() -> assertEquals(Collections.singleton(at(3, 7, "s7:7400")), registered));
    }

    @Test
    void taskThatHasLostItsWayToAServerCostsItsOwnShuffleOnly() throws InterruptedException {
        start(false, 60_000);
        registered.addAll(Arrays.asList(at(3, 1, A), at(3, 2, A), at(4, 1, A)));
        known.add(server(A, false, 1, 2));
        now.add(server(A, false, 1, 2));
        failed(at(3, 1, A), 3, 0, " [gone: " + volume(1) + " " + volume(2) + "; silent: " + A + "; lost: ;]");
        eventually(() -> assertTrue(looks > 0));
        assertEquals(Collections.singleton(at(4, 1, A)), registered);
    }

    @Test
    void serverThatIsSilentIsWaitedForAndForgottenWhenAReaderWouldGiveItUp() throws InterruptedException {
        start(false, 3_000);
        registered.addAll(Arrays.asList(at(3, 1, A), at(3, 2, B)));
        now.addAll(Arrays.asList(silent(A), silent(B)));
        long start = System.nanoTime();
        failed(at(3, 1, A), 3, 0, " [gone: ; silent: " + A + "; lost: ;]");
        assertEquals(Collections.singleton(at(3, 2, B)), registered);
        eventually(() -> assertTrue(registered.isEmpty()));
        assertTrue(System.nanoTime() - start >= TimeUnit.SECONDS.toNanos(3));
    }

    @Test
    void serverThatComesBackWithItsDisksKeepsItsOutputs() throws InterruptedException {
        start(false, 3_000);
        registered.addAll(Arrays.asList(at(3, 1, A), at(3, 2, B)));
        now.addAll(Arrays.asList(silent(A), silent(B)));
        failed(at(3, 1, A), 3, 0, " [gone: ; silent: " + A + "; lost: ;]");
        eventually(() -> assertTrue(looks > 0));
        now.set(1, server(B, false, 2));
        eventually(() -> assertTrue(looks > 1));
        assertEquals(Collections.singleton(at(3, 2, B)), registered);
    }

    @Test
    void withAStoreAFailureIsWhatItsTaskFoundLostUntilTheStageFailsAgain() throws InterruptedException {
        for (boolean direct : new boolean[] {false, true}) {
            registered.clear();
            known.clear();
            now.clear();
            start(direct, 60_000);
            registered.addAll(Arrays.asList(at(3, 1, A), at(3, 2, A), at(4, 1, A), at(3, 3, B)));
            known.add(server(B, !direct, 3));
            now.addAll(Arrays.asList(silent(A), server(B, !direct, 3)));
            Set<BlockManagerId> rest = new HashSet<>(registered);
            rest.remove(at(3, 1, A));
            for (int task = 0; task < 3; task++) {
                failed(at(3, 1, A), 3, 0, " [gone: " + volume(1) + "; silent: " + A + "; lost: ;]");
            }
            assertEquals(rest, registered);
            failed(at(3, 2, A), 3, 1, " [gone: ; silent: " + A + "; lost: ;]");
            eventually(() -> assertEquals(new HashSet<>(Arrays.asList(at(4, 1, A), at(3, 3, B))), registered));
            losses.stop();
        }
    }

    private void lost(int map, long attempt, int stageAttempt) {
        FetchFailed reason = new FetchFailed(VolumeLocation.ofOne(one, map), 3, attempt, map, 0, "why");
        losses.onTaskEnd(new SparkListenerTaskEnd(9, stageAttempt, "ResultTask", reason, null, null, null));
    }

    @Test
    void oneOutputThatIsLostIsForgottenAndNothingBesideIt() throws InterruptedException {
        start(false, 60_000);
        one = at(3, 1, A);
        Set<BlockManagerId> all = new HashSet<>(Arrays.asList(one, at(3, 2, A), at(4, 1, A)));
        registered.addAll(all);
        known.add(server(A, false, 1, 2));
        now.add(server(A, false, 1, 2));
        for (int task = 0; task < 3; task++) {
            lost(7, 70, 0);
        }
        lost(8, 80, 0); // another task of the same attempt of the stage has found another
        lost(7, 70, 1); // the stage was tried again before Spark had forgotten it
        eventually(() -> assertTrue(looks > 0));
        assertEquals(Arrays.asList("3/7/70", "3/8/80"), single);
        assertEquals(all, registered);
    }

    @Test
    void allOutputsThatATaskHasFoundLostAreForgottenForOneFailure() {
        start(false, 60_000);
        one = at(3, 1, A);
        registered.addAll(Arrays.asList(one, at(3, 2, A)));
        Set<BlockManagerId> all = new HashSet<>(registered);
        String note = " [gone: ; silent: ; lost: 2/20 7/70 11/110;]";
        FetchFailed reason = new FetchFailed(VolumeLocation.ofOne(one, 7), 3, 70L, 7, 0, "why" + note);
        losses.onTaskEnd(new SparkListenerTaskEnd(9, 0, "ResultTask", reason, null, null, null));
        assertEquals(Arrays.asList("3/2/20", "3/7/70", "3/11/110"), single);
        assertEquals(all, registered);
        // With a failure that stands for a whole volume too.
        failed(at(3, 2, A), 3, 0, " [gone: " + volume(2) + "; silent: ; lost: 5/50;]");
        assertTrue(single.contains("3/5/50"));
        assertEquals(Collections.singleton(one), registered);
    }

    @Test
    void stageThatFailsForOneOutputAfterTheOtherCostsAllThatLieBesideThem() {
        start(false, 60_000);
        registered.addAll(Arrays.asList(at(3, 1, A), at(3, 2, A), at(3, 3, A), at(4, 1, A), at(4, 2, A)));
        known.add(server(A, false, 1, 2, 3));
        now.add(server(A, false, 1, 2, 3));
        one = at(3, 1, A);
        lost(7, 70, 0);
        assertTrue(registered.contains(one));
        one = at(3, 2, A);
        lost(8, 80, 1);
        assertEquals(new HashSet<>(Arrays.asList(at(3, 3, A), at(4, 1, A), at(4, 2, A))), registered);
    }

    @Test
    void failuresOfOthersAreNotOurs() {
        start(false, 1_000);
        registered.add(at(3, 1, A));
        failed(BlockManagerId.apply("7", "worker", 5, scala.Option.empty()), 3, 0, "");
        failed(null, 3, 0, "");
        assertEquals(1, registered.size());
        assertEquals(0, looks);
    }
}

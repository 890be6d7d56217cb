package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import io.forebay.core.ServerView;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.storage.BlockManagerId;
import org.junit.jupiter.api.Test;

class GoneTest {
    private static final String A = "a:7400";
    private static final String B = "b:7400";
    private static final String C = "c:7400";

    private static String volume(int number) {
        return String.format("00000000-0000-0000-0000-%012d", number);
    }

    private static BlockManagerId at(int shuffle, int volume, String address) {
        return VolumeLocation.of(shuffle, volume(volume) + "@" + address);
    }

    private static BlockManagerId pair(int first, String one, int second, String other) {
        return VolumeLocation.of(3, volume(first) + "@" + one + "+" + volume(second) + "@" + other);
    }

    private static ServerView server(String address, int... volumes) {
        Set<String> ids = new HashSet<>();
        for (int volume : volumes) {
            ids.add(volume(volume));
        }
        return new ServerView(address, true, false, ids);
    }

    private static ServerView silent(String address) {
        return new ServerView(address, false, false, Collections.emptySet());
    }

    private static GoneNote note(Collection<String> volumes, String... silent) {
        String text = "why" + new StringBuilder(" [gone: ").append(String.join(" ", volumes)).append("; silent: ").append(String.join(" ", silent)).append("; lost: ;]");
        return GoneNote.in(text);
    }

    private static Set<BlockManagerId> set(BlockManagerId... places) {
        return new HashSet<>(Arrays.asList(places));
    }

    @Test
    void locationSaysItsCopiesWhateverTheShuffle() {
        assertArrayEquals(new String[] {volume(1) + "@" + A}, VolumeLocation.copies(at(12, 1, A)));
        assertArrayEquals(new String[] {volume(1) + "@" + A, volume(2) + "@" + B}, VolumeLocation.copies(pair(1, A, 2, B)));
        assertEquals(0, VolumeLocation.copies(BlockManagerId.apply("3", "worker", 5, scala.Option.empty())).length);
        assertEquals(0, VolumeLocation.copies(VolumeLocation.nowhere(3)).length);
        assertEquals(0, VolumeLocation.copies(null).length);
    }

    @Test
    void allOfAServerIsGoneThatATaskHasWaitedFor() {
        List<BlockManagerId> places = new ArrayList<>();
        for (int volume = 0; volume < 12; volume++) {
            places.add(at(3, volume, A));
            places.add(at(4, volume, A));
        }
        Set<BlockManagerId> lost = new HashSet<>(places);
        places.add(at(3, 20, B));
        List<ServerView> known = Collections.singletonList(server(B, 20));
        assertEquals(lost, Gone.told(places, note(Collections.emptyList(), A), known));
        assertEquals(lost, Gone.seen(places, Collections.singleton(A), Arrays.asList(silent(A), server(B, 20))));
    }

    @Test
    void serverThatAnswersAndHasADiskThatDoesNotKeepsTheOthers() {
        List<BlockManagerId> places = Arrays.asList(at(3, 1, A), at(3, 2, A));
        GoneNote note = note(Collections.emptyList(), A);
        assertEquals(set(), Gone.told(places, note, Collections.singletonList(server(A, 1, 2))));
        assertEquals(set(), Gone.seen(places, Collections.singleton(A), Collections.singletonList(server(A, 1, 2))));
        // The first one is out, which the server says.
        assertEquals(set(at(3, 1, A)), Gone.seen(places, Collections.singleton(A), Collections.singletonList(server(A, 2))));
    }

    @Test
    void whatHasMovedToAnotherServerIsNotGone() {
        List<BlockManagerId> places = Arrays.asList(at(3, 1, A), at(3, 2, A));
        List<ServerView> seen = Arrays.asList(silent(A), server(B, 2));
        assertEquals(set(at(3, 1, A)), Gone.told(places, note(Collections.emptyList(), A), seen));
        assertEquals(set(at(3, 1, A)), Gone.seen(places, Collections.singleton(A), seen));
    }

    @Test
    void whatATaskHasFoundGoneIsGoneOfEveryShuffleThoughServersSaidOtherwiseBefore() {
        List<BlockManagerId> places = Arrays.asList(at(3, 1, A), at(4, 1, A), at(3, 2, A));
        List<ServerView> before = Collections.singletonList(server(A, 1, 2));
        assertEquals(set(at(3, 1, A), at(4, 1, A)), Gone.told(places, note(Collections.singleton(volume(1))), before));
    }

    @Test
    void volumesOfServersThatAnswerWithoutThemAreGone() {
        List<BlockManagerId> places = Arrays.asList(at(3, 1, A), at(3, 2, B), at(3, 3, B), at(3, 4, C));
        List<ServerView> seen = Arrays.asList(server(A, 11), server(B, 3, 12), silent(C));
        assertEquals(set(at(3, 1, A), at(3, 2, B)), Gone.seen(places, Collections.emptySet(), seen));
    }

    @Test
    void serverThatIsSilentAtTheMomentMayBeStartingAgain() {
        List<BlockManagerId> places = Arrays.asList(at(3, 1, A), at(3, 2, B));
        List<ServerView> seen = Arrays.asList(silent(A), silent(B));
        assertEquals(set(at(3, 1, A)), Gone.seen(places, Collections.singleton(A), seen));
    }

    @Test
    void outputWithTwoCopiesIsGoneWithBoth() {
        List<BlockManagerId> places = new ArrayList<>();
        Set<BlockManagerId> lost = new HashSet<>();
        for (int one = 0; one < 4; one++) {
            for (int other = 10; other < 14; other++) {
                places.add(pair(one, A, other, B));
                lost.add(pair(one, A, other, B));
            }
            places.add(pair(one, A, 20, C));
            places.add(pair(20, C, one + 10, B));
        }
        List<ServerView> seen = Arrays.asList(silent(A), silent(B), server(C, 20));
        assertEquals(lost, Gone.told(places, note(Collections.emptyList(), A, B), Collections.singletonList(server(C, 20))));
        assertEquals(lost, Gone.seen(places, new HashSet<>(Arrays.asList(A, B)), seen));
        // One of them back with empty disks, the other waited for.
        assertEquals(lost, Gone.seen(places, Collections.singleton(A), Arrays.asList(silent(A), server(B, 30), server(C, 20))));
    }

    @Test
    void serverIsGivenUpWhenATaskOrTheDriverHasWaitedLongEnoughAndNotIfItIsBack() {
        Silence silence = new Silence(5_000);
        long second = 1_000_000_000L;
        silence.answering(Arrays.asList(A, B, C), 0);
        silence.answering(Arrays.asList(C), second);
        silence.waitedFor(Collections.singleton(C));
        assertEquals(Collections.singleton(C), silence.forGood(second));
        silence.asked(Arrays.asList(B, C), Collections.singleton(A), 4 * second);
        assertEquals(Collections.emptySet(), silence.forGood(5 * second));
        assertEquals(Collections.singleton(A), silence.forGood(6 * second));
        silence.asked(Collections.singleton(A), Collections.emptySet(), 7 * second);
        assertEquals(Collections.emptySet(), silence.forGood(100 * second));
    }
}

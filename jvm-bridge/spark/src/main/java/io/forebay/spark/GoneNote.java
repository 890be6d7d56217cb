package io.forebay.spark;

import io.forebay.core.ForebayException;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * A reduce task's findings beside the one output in its fetch failure: volumes that are gone,
 * servers silent for the whole waiting time, and single lost outputs. The note travels to the
 * driver at the end of the failure's message, the only free part of Spark's fetch failure; both
 * ends are here.
 */
final class GoneNote {
    /** More are not told: the driver sees for itself. */
    private static final int MOST = 256;

    /** Outputs told one by one. */
    static final int MOST_LOST = 1024;

    private static final Pattern NOTE = Pattern.compile("\\[gone: ([^;]*); silent: ([^;]*); lost: ([0-9/ ]*);]");

    private final Set<String> volumes;
    private final Set<String> silent;

    /** Attempts by map. */
    private final Map<Integer, Long> lost;

    private GoneNote(Collection<String> volumes, Collection<String> silent, Map<Integer, Long> lost) {
        this.lost = Collections.unmodifiableMap(lost);
        this.volumes = Collections.unmodifiableSet(new LinkedHashSet<>(volumes));
        this.silent = Collections.unmodifiableSet(new LinkedHashSet<>(silent));
    }

    /** @param place where the output is that could not be read, as {@code writerLocation} has it */
    static GoneNote of(ForebayException failure, String place) {
        boolean answered = !failure.kind().equals("unavailable");
        Collection<String> silent =
                answered || place == null
                        ? Collections.emptyList()
                        : Arrays.stream(place.split("\\+")).map(copy -> copy.substring(copy.indexOf('@') + 1)).collect(Collectors.toList());
        Map<Integer, Long> lost = new LinkedHashMap<>();
        failure.lost().forEach(output -> lost.put(output.mapIndex(), output.attempt()));
        return new GoneNote(failure.goneVolumes(), silent, lost);
    }

    /** The note in a message; empty if there is none. */
    static GoneNote in(String message) {
        Matcher note = NOTE.matcher(message == null ? "" : message);
        if (!note.find()) {
            return new GoneNote(Collections.emptyList(), Collections.emptyList(), Collections.emptyMap());
        }
        Map<Integer, Long> lost = new LinkedHashMap<>();
        for (String output : words(note.group(3))) {
            String[] numbers = output.split("/");
            lost.put(Integer.parseUnsignedInt(numbers[0]), Long.parseUnsignedLong(numbers[1]));
        }
        return new GoneNote(words(note.group(1)), words(note.group(2)), lost);
    }

    private static Collection<String> words(String text) {
        return text.isEmpty() ? Collections.emptyList() : Arrays.asList(text.split(" "));
    }

    /** Volumes that no server has. */
    Set<String> volumes() {
        return volumes;
    }

    /** Addresses at which no server answers. */
    Set<String> silent() {
        return silent;
    }

    /**
     * Outputs of the failure's shuffle that are lost by themselves: the attempt of each, by map.
     */
    Map<Integer, Long> lost() {
        return lost;
    }

    GoneNote withoutVolumes() {
        return new GoneNote(Collections.emptyList(), silent, lost);
    }

    GoneNote withoutSilent() {
        return new GoneNote(volumes, Collections.emptyList(), lost);
    }

    /** What is to be added to a message. */
    @Override
    public String toString() {
        if (volumes.isEmpty() && silent.isEmpty() && lost.isEmpty()) {
            return "";
        }
        String outputs =
                lost.entrySet().stream()
                        .limit(MOST_LOST)
                        .map(output -> Integer.toUnsignedString(output.getKey()) + "/" + Long.toUnsignedString(output.getValue()))
                        .collect(Collectors.joining(" "));
        return " [gone: " + volumes.stream().limit(MOST).collect(Collectors.joining(" ")) + "; silent: " + String.join(" ", silent) + "; lost: "
                + outputs + ";]";
    }
}

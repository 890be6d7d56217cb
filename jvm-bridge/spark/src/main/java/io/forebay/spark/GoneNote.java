package io.forebay.spark;

import io.forebay.core.ForebayException;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * What a reduce task has found out beside the one output that its fetch failure names: volumes that are gone, and servers that have not
 * answered for as long as it was told to wait. It goes to the driver at the end of the failure's message, which is the only part of a
 * fetch failure that Spark leaves to us; both ends of it are here.
 */
final class GoneNote {
    /** More are not told: the driver sees for itself. */
    private static final int MOST = 256;

    private static final Pattern NOTE = Pattern.compile("\\[gone: ([^;]*); silent: ([^;]*);]");

    private final Set<String> volumes;
    private final Set<String> silent;

    private GoneNote(Collection<String> volumes, Collection<String> silent) {
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
        return new GoneNote(failure.goneVolumes(), silent);
    }

    /** What was told with a message; nothing if there is no note in it. */
    static GoneNote in(String message) {
        Matcher note = NOTE.matcher(message == null ? "" : message);
        return note.find() ? new GoneNote(words(note.group(1)), words(note.group(2))) : new GoneNote(Collections.emptyList(), Collections.emptyList());
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

    GoneNote withoutVolumes() {
        return new GoneNote(Collections.emptyList(), silent);
    }

    GoneNote withoutSilent() {
        return new GoneNote(volumes, Collections.emptyList());
    }

    /** What is to be added to a message. */
    @Override
    public String toString() {
        if (volumes.isEmpty() && silent.isEmpty()) {
            return "";
        }
        return " [gone: " + volumes.stream().limit(MOST).collect(Collectors.joining(" ")) + "; silent: " + String.join(" ", silent) + ";]";
    }
}

package io.forebay.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** One server's description of itself. */
public final class ServerView {
    private final String address;
    private final boolean answers;
    private final boolean store;
    private final Set<String> volumes;

    public ServerView(String address, boolean answers, boolean store, Set<String> volumes) {
        this.address = address;
        this.answers = answers;
        this.store = store;
        this.volumes = Collections.unmodifiableSet(new HashSet<>(volumes));
    }

    /** Of the lines that native code gives. */
    static List<ServerView> of(String[] lines) {
        List<ServerView> views = new ArrayList<>();
        for (String line : lines) {
            String[] words = line.split("\t", -1);
            Set<String> volumes = words[3].isEmpty() ? Collections.emptySet() : new HashSet<>(Arrays.asList(words[3].split(",")));
            views.add(new ServerView(words[0], Boolean.parseBoolean(words[1]), Boolean.parseBoolean(words[2]), volumes));
        }
        return views;
    }

    /** Where it was asked, {@code host:port}. */
    public String address() {
        return address;
    }

    /** Whether it has answered. */
    public boolean answers() {
        return answers;
    }

    /** Whether the server has an object store, and so may serve volumes that no server has. */
    public boolean hasStore() {
        return store;
    }

    /** The server's readable volumes. */
    public Set<String> volumes() {
        return volumes;
    }
}

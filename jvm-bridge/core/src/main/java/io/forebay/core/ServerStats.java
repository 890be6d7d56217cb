package io.forebay.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Work of one server for one writer or reader. */
public final class ServerStats {
    private final String address;
    private final long bytes;
    private final long blocks;
    private final long failures;
    private final String lastFailure;

    private ServerStats(String[] fields) {
        address = fields[0];
        bytes = Long.parseLong(fields[1]);
        blocks = Long.parseLong(fields[2]);
        failures = Long.parseLong(fields[3]);
        lastFailure = fields[4];
    }

    /** The lines of {@link Native#writerServers}. */
    static List<ServerStats> parse(String lines) {
        if (lines.isEmpty()) {
            return Collections.emptyList();
        }
        List<ServerStats> servers = new ArrayList<>();
        for (String line : lines.split("\n")) {
            servers.add(new ServerStats(line.split("\t", -1)));
        }
        return servers;
    }

    /** {@code host:port}. */
    public String address() {
        return address;
    }

    /** Stored bytes of the committed output, or of the verified blocks. */
    public long bytes() {
        return bytes;
    }

    public long blocks() {
        return blocks;
    }

    /** Failed tries, whatever the outcome of the next. */
    public long failures() {
        return failures;
    }

    /** Why the last of them failed; empty if none did. */
    public String lastFailure() {
        return lastFailure;
    }
}

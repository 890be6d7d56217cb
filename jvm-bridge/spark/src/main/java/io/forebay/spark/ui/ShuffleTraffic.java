package io.forebay.spark.ui;

import java.io.Serializable;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * Traffic of one or several tasks at one shuffle. Part of an event: event logs have the names of
 * these fields, so fields may be added and never changed.
 */
public final class ShuffleTraffic implements Serializable {
    private static final long serialVersionUID = 1L;

    public int shuffle;

    /** Map outputs, or the inputs of reduce tasks. */
    public boolean write;

    /** The Spark stage of the last of the tasks. */
    public int stage;

    public long tasks = 1;

    /** Map outputs that were committed. */
    public long outputs;

    /** Records of map outputs. */
    public long records;

    /** Time that the tasks waited for servers. */
    public long waitNanos;

    /** How often an output was sent again from its start, or a stream was taken up again. */
    public long repeats;

    /** By address. */
    public SortedMap<String, Server> servers = new TreeMap<>();

    /** One server's part. */
    public static final class Server implements Serializable {
        private static final long serialVersionUID = 1L;

        /** Tasks with an output on the server, or with blocks from it. */
        public long tasks;

        /** Stored bytes, committed or read. */
        public long bytes;

        public long blocks;

        /** Tries that failed. */
        public long failures;

        /** Why the last of them failed. */
        public String lastFailure = "";

        /** Servers with outputs. */
        public Set<String> volumes = new TreeSet<>();

        void add(Server other) {
            tasks += other.tasks;
            bytes += other.bytes;
            blocks += other.blocks;
            failures += other.failures;
            lastFailure = other.lastFailure.isEmpty() ? lastFailure : other.lastFailure;
            volumes.addAll(other.volumes);
        }
    }

    /** Adds another task's, of the same shuffle and direction. */
    void add(ShuffleTraffic other) {
        stage = other.stage;
        tasks += other.tasks;
        outputs += other.outputs;
        records += other.records;
        waitNanos += other.waitNanos;
        repeats += other.repeats;
        other.servers.forEach((address, part) -> servers.computeIfAbsent(address, unknown -> new Server()).add(part));
    }

    long bytes() {
        return servers.values().stream().mapToLong(server -> server.bytes).sum();
    }

    long blocks() {
        return servers.values().stream().mapToLong(server -> server.blocks).sum();
    }

    /** Tries that failed, at all servers. */
    long failures() {
        return servers.values().stream().mapToLong(server -> server.failures).sum();
    }

    /** Spark writes it into the event log with the failure of a task. */
    @Override
    public String toString() {
        return "shuffle " + shuffle + (write ? " written: " : " read: ") + bytes() + " bytes, " + failures() + " failed tries";
    }
}

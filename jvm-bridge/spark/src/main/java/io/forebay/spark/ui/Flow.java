package io.forebay.spark.ui;

/** Traffic in one direction. */
public final class Flow {
    /** Tasks in the sum. */
    public long tasks;

    public long bytes;
    public long blocks;
    public long records;
    public long waitNanos;

    /** How often an output was sent again from its start, or a stream was taken up again. */
    public long repeats;

    /** Tries that failed. */
    public long failures;

    /** Adds all servers' parts. */
    void add(ShuffleTraffic task) {
        tasks += task.tasks;
        bytes += task.bytes();
        blocks += task.blocks();
        failures += task.failures();
        records += task.records;
        waitNanos += task.waitNanos;
        repeats += task.repeats;
    }

    /** Adds one server's part; waits and repetitions are no single server's. */
    void add(ShuffleTraffic.Server server) {
        tasks += server.tasks;
        bytes += server.bytes;
        blocks += server.blocks;
        failures += server.failures;
    }
}

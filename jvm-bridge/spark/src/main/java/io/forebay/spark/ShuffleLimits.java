package io.forebay.spark;

/**
 * The servers' limits on one shuffle. Beyond them every task would be refused, so the driver
 * refuses the shuffle, once.
 */
final class ShuffleLimits {
    /** Maps, and partitions: {@code MAX_TASKS} of {@code proto/src/wire.rs}. */
    static final int MAX_TASKS = 1 << 24;

    private ShuffleLimits() {}

    static void check(int shuffle, int maps, int partitions) {
        check(shuffle, maps, "maps", "coalesce the data that it reads");
        check(shuffle, partitions, "partitions", "ask for fewer (spark.sql.shuffle.partitions, or where the job names a number)");
    }

    private static void check(int shuffle, int count, String what, String remedy) {
        if (count > MAX_TASKS) {
            throw new IllegalArgumentException(
                    "shuffle " + shuffle + " has " + count + " " + what + ": Forebay takes at most " + MAX_TASKS + "; " + remedy);
        }
    }
}

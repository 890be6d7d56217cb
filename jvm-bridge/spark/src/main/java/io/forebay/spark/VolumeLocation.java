package io.forebay.spark;

import io.forebay.core.CommittedOutput;
import org.apache.spark.storage.BlockManagerId;
import scala.Option;

/**
 * A map output's place in Spark's words. When a fetch fails, Spark forgets every output that is registered under the same executor id,
 * of every shuffle; so the id names what is lost together: one volume's part of one shuffle.
 *
 * <p>invariant: location-is-failure-domain. Never the id of an executor (it would be evicted), one for all (everything would be run
 * again), or null (the map would never be run again).
 *
 * <p>The host is no worker's, because the loss of a worker makes Spark forget all outputs on its host. Where the server is stands in the
 * topology, which Spark carries along and does not use here.
 */
final class VolumeLocation {
    private static final String PREFIX = "forebay-";

    /** Spark wants one above 0; nobody connects to it. */
    private static final int PORT = 1;

    private VolumeLocation() {}

    static BlockManagerId of(int shuffle, CommittedOutput output) {
        return of(shuffle, output.volume(), output.address());
    }

    static BlockManagerId of(int shuffle, String volume, String address) {
        return BlockManagerId.apply(PREFIX + shuffle + "-" + volume, volume + ".forebay", PORT, Option.apply(address));
    }

    /** Of the outputs of a shuffle without partitions: nothing was stored, so nothing can be lost or read. */
    static BlockManagerId nowhere(int shuffle) {
        return BlockManagerId.apply(PREFIX + shuffle + "-nowhere", "nowhere.forebay", PORT, Option.empty());
    }

    /** {@code volume@host:port}, or null if the location is not one of ours. */
    static String parse(BlockManagerId location, int shuffle) {
        String prefix = PREFIX + shuffle + "-";
        if (location == null || !location.executorId().startsWith(prefix) || location.topologyInfo().isEmpty()) {
            return null;
        }
        return location.executorId().substring(prefix.length()) + "@" + location.topologyInfo().get();
    }
}

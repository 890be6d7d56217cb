package io.forebay.spark;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.storage.BlockManagerId;
import scala.Option;

/**
 * A map output's place in Spark's terms. After a failed fetch Spark forgets every output registered
 * under the same executor id, of every shuffle; so the id names outputs that are lost together: one
 * volume's part of one shuffle, or at level mirror the common part of two volumes.
 *
 * <p>A failure of one map output alone has a location without any registered output
 * ({@link #ofOne}): Spark then forgets nothing by itself, and the driver makes Spark forget the
 * output.
 *
 * <p>invariant: location-is-failure-domain. Never the id of an executor (it would be evicted), one
 * for all (everything would be run again), or null (the map would never be run again).
 *
 * <p>The host is no worker's, because the loss of a worker makes Spark forget all outputs on its
 * host. Where the server is stands in the topology, which Spark carries along and does not use
 * here.
 */
final class VolumeLocation {
    private static final String PREFIX = "forebay-";

    /** Spark wants a port above 0; no connection is ever made. */
    private static final int PORT = 1;

    private static final String AND = "\\+";
    private static final String MAP = "-map-";
    private static final Pattern ONE = Pattern.compile(MAP + "[0-9]{1,10}$");
    private static final Pattern ID = Pattern.compile(PREFIX + "([0-9]{1,10})-.*");

    private VolumeLocation() {}

    /** @param location {@code volume@host:port}, or two of them with a {@code +} in between */
    static BlockManagerId of(int shuffle, String location) {
        StringBuilder volumes = new StringBuilder();
        StringBuilder addresses = new StringBuilder();
        for (String place : location.split(AND)) {
            int at = place.indexOf('@');
            volumes.append(volumes.length() > 0 ? "+" : "").append(place, 0, at);
            addresses.append(addresses.length() > 0 ? "+" : "").append(place, at + 1, place.length());
        }
        return BlockManagerId.apply(PREFIX + shuffle + "-" + volumes, volumes + ".forebay", PORT, Option.apply(addresses.toString()));
    }

    /**
     * Location of a failure of one map's output alone, among the outputs of a place.
     */
    static BlockManagerId ofOne(BlockManagerId place, int mapIndex) {
        return BlockManagerId.apply(place.executorId() + MAP + mapIndex, place.host(), place.port(), place.topologyInfo());
    }

    static boolean isOfOne(BlockManagerId location) {
        return location != null && location.executorId().startsWith(PREFIX) && ONE.matcher(location.executorId()).find();
    }

    /**
     * Of the outputs of a shuffle without partitions: nothing was stored, so nothing can be lost or
     * read.
     */
    static BlockManagerId nowhere(int shuffle) {
        return BlockManagerId.apply(PREFIX + shuffle + "-nowhere", "nowhere.forebay", PORT, Option.empty());
    }

    /**
     * The argument of {@link #of}, also for a location by {@link #ofOne}; null for a foreign
     * location.
     */
    static String parse(BlockManagerId location, int shuffle) {
        String prefix = PREFIX + shuffle + "-";
        if (location == null || !location.executorId().startsWith(prefix) || location.topologyInfo().isEmpty()) {
            return null;
        }
        String[] volumes = ONE.matcher(location.executorId().substring(prefix.length())).replaceFirst("").split(AND);
        String[] addresses = location.topologyInfo().get().split(AND);
        if (volumes.length != addresses.length) {
            return null;
        }
        StringBuilder places = new StringBuilder();
        for (int i = 0; i < volumes.length; i++) {
            places.append(i > 0 ? "+" : "").append(volumes[i]).append('@').append(addresses[i]);
        }
        return places.toString();
    }

    /**
     * The copies of an output registered there, {@code volume@host:port} each; none for a foreign
     * location.
     */
    static String[] copies(BlockManagerId location) {
        Matcher id = ID.matcher(location == null ? "" : location.executorId());
        String places = id.matches() ? parse(location, Integer.parseInt(id.group(1))) : null;
        return places == null ? new String[0] : places.split(AND);
    }

    /** The volume of a copy. */
    static String volume(String copy) {
        return copy.substring(0, copy.indexOf('@'));
    }

    /** The address of a copy. */
    static String address(String copy) {
        return copy.substring(copy.indexOf('@') + 1);
    }
}

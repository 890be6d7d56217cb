package io.forebay.spark;

import java.security.SecureRandom;
import org.apache.spark.SparkConf;

/**
 * Who an application is. To people it is what Spark calls it; to the servers it is that name, made safe, and a number that no other
 * SparkContext has.
 *
 * <p>invariant: ids-never-return. Spark's id may come again while the servers still keep what the first application of that id left: a
 * driver that was killed and is started again, {@code spark.master.useAppNameAsAppId.enabled}, {@code spark.app.id} set by hand. The
 * second one counts its shuffles and attempts from 0 as the first did, so under one id on the servers, and with one token, its outputs
 * would be taken for the first one's, which are there already. With a number of its own it cannot name them.
 */
final class AppIdentity {
    /** The longest id that the servers take. */
    private static final int LONGEST = 128;

    private static final int NUMBER_BYTES = 8;

    private final String spark;
    private final String servers;

    private AppIdentity(String spark, String servers) {
        this.spark = spark;
        this.servers = servers;
    }

    /** A new one for the SparkContext that has this conf; a second call gives another. */
    static AppIdentity of(SparkConf conf) {
        String id = conf.get("spark.app.id");
        // On YARN a second driver has the id of the first.
        String attempt = conf.get("spark.app.attempt.id", "");
        String spark = attempt.isEmpty() ? id : id + "-" + attempt;
        return new AppIdentity(spark, safe(spark) + "-" + random(NUMBER_BYTES));
    }

    /** What Spark calls the application, with the attempt where there are several. */
    String spark() {
        return spark;
    }

    /** What the servers call it: in their logs, in {@code forebay}'s lists, in paths on disks and in the store. */
    String servers() {
        return servers;
    }

    @Override
    public String toString() {
        return spark + " (on the servers: " + servers + ")";
    }

    /** Readable rather than reversible: it is the number that makes the id unique. */
    private static String safe(String id) {
        String safe = id.replaceAll("[^A-Za-z0-9._-]", "_");
        int longest = LONGEST - 1 - 2 * NUMBER_BYTES;
        return safe.length() > longest ? safe.substring(0, longest) : safe;
    }

    /** So many random bytes, as hexadecimal digits. */
    static String random(int bytes) {
        byte[] random = new byte[bytes];
        new SecureRandom().nextBytes(random);
        StringBuilder hex = new StringBuilder(2 * bytes);
        for (byte b : random) {
            hex.append(String.format("%02x", b));
        }
        return hex.toString();
    }
}

package io.forebay.spark;

import java.security.SecureRandom;
import org.apache.spark.SparkConf;

/**
 * Identity of an application. People know Spark's name; the servers know the same name, made safe,
 * with a number unique to its SparkContext.
 *
 * <p>invariant: ids-never-return. Spark's id may come again while the servers still keep data of
 * its first application: a killed driver that is started again,
 * {@code spark.master.useAppNameAsAppId.enabled}, {@code spark.app.id} set by hand. Both
 * applications count shuffles and attempts from 0, so under one id and token the servers would take
 * the second's outputs for the first's. A number per application prevents that.
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

    /** A new identity for a SparkContext's conf; every call gives another. */
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

    /**
     * The id on the servers: in logs, in {@code forebay}'s lists, in paths on disks and in the
     * store.
     */
    String servers() {
        return servers;
    }

    @Override
    public String toString() {
        return spark + " (on the servers: " + servers + ")";
    }

    /** Readable rather than reversible: the number makes the id unique. */
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

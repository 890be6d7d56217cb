package io.forebay.spark;

import org.apache.spark.SparkConf;

/**
 * The settings of this JVM, or why they cannot be read. On the driver that is said at once. On an executor they were a driver's, so its
 * jar is another one; if it ended for it, it would be started again and again, and nobody would see the reason: so tasks fail with it.
 */
final class Settings {
    private final ForebayConf conf;
    private final IllegalArgumentException refusal;

    private Settings(ForebayConf conf, IllegalArgumentException refusal) {
        this.conf = conf;
        this.refusal = refusal;
    }

    static Settings read(SparkConf conf, boolean isDriver) {
        try {
            return new Settings(new ForebayConf(conf, isDriver), null);
        } catch (IllegalArgumentException e) {
            if (isDriver) {
                throw e;
            }
            return new Settings(null, e);
        }
    }

    /** Null where they cannot be read. */
    ForebayConf orNull() {
        return conf;
    }

    /** Fails with the reason where they cannot be read. */
    ForebayConf get() {
        if (conf == null) {
            throw new IllegalStateException(
                    "the Forebay of this executor cannot read a setting that its driver took, so its jar is another one: use one jar (" + refusal.getMessage()
                            + ")",
                    refusal);
        }
        return conf;
    }
}

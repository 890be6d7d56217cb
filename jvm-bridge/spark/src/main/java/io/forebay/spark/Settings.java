package io.forebay.spark;

import org.apache.spark.SparkConf;

/**
 * The settings of this JVM, or the reason why they are unreadable. A driver reports the reason at
 * once. An executor's settings were a driver's, so its jar must be another version; an executor
 * that ended would be started again and again without a visible reason, so its tasks fail with the
 * reason instead.
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

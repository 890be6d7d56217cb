package io.forebay.spark;

import org.apache.spark.SparkConf;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Requirements on the driver's SparkConf beside Forebay's own keys: sets forgotten keys, refuses
 * contradictions. The conf is the live one, seen by later parts of the driver and by executors.
 */
final class DriverSettings {
    private static final Logger LOG = LoggerFactory.getLogger(DriverSettings.class);

    static final String IO_PLUGIN = "spark.shuffle.sort.io.plugin.class";
    private static final String SPARKS_IO_PLUGIN = "org.apache.spark.shuffle.sort.io.LocalDiskShuffleDataIO";
    private static final String TRACKING = "spark.dynamicAllocation.shuffleTracking.enabled";
    private static final String LOCALITY = "spark.shuffle.reduceLocality.enabled";

    private final SparkConf conf;
    private final String plugin;
    private final String tracking;
    private final String locality;

    private DriverSettings(SparkConf conf) {
        this.conf = conf;
        this.plugin = conf.get(IO_PLUGIN, null);
        this.tracking = conf.get(TRACKING, null);
        this.locality = conf.get(LOCALITY, null);
    }

    /**
     * Throws an {@link IllegalArgumentException} that names the key and the remedy.
     *
     * @return what was there before, for {@link #restore}
     */
    static DriverSettings prepare(SparkConf conf) {
        DriverSettings before = new DriverSettings(conf);
        refuse(conf, "spark.shuffle.service.enabled", "map outputs are on Forebay's servers, and executors must not register with a shuffle service");
        refuse(conf, "spark.shuffle.push.enabled", "push-based merging is for Spark's own shuffle");
        refuse(conf, "spark.shuffle.useOldFetchProtocol", "map outputs are named by the id of their task attempt, which the old protocol does not carry");

        String plugin = conf.get(IO_PLUGIN, SPARKS_IO_PLUGIN);
        String ours = ForebayShuffleDataIO.class.getName();
        if (!plugin.equals(SPARKS_IO_PLUGIN) && !plugin.equals(ours)) {
            throw new IllegalArgumentException(
                    IO_PLUGIN + "=" + plugin + " cannot be used with Forebay, which has its own: remove the key");
        }
        // Without this key Spark runs maps with safe outputs again after the loss of an executor.
        conf.set(IO_PLUGIN, ours);
        // With this key idle executors are kept for files that do not exist.
        set(conf, TRACKING, "false");
        // With this key tasks wait for hosts that do not exist: see ReduceLocality, since its
        // reader may have read the key already.
        set(conf, LOCALITY, "false");
        return before;
    }

    /**
     * Makes everything Spark's own again, and leaves the reason where the UI and the event log show
     * it.
     */
    void restore(String status) {
        put(IO_PLUGIN, plugin != null && plugin.equals(ForebayShuffleDataIO.class.getName()) ? SPARKS_IO_PLUGIN : plugin);
        put(TRACKING, tracking);
        put(LOCALITY, locality);
        conf.set(ForebayConf.STATUS, status);
    }

    private void put(String key, String value) {
        if (value == null) {
            conf.remove(key);
        } else {
            conf.set(key, value);
        }
    }

    private static void refuse(SparkConf conf, String key, String why) {
        if (conf.getBoolean(key, false)) {
            throw new IllegalArgumentException(key + "=true cannot be used with Forebay (" + why + "): set it to false or remove it");
        }
    }

    private static void set(SparkConf conf, String key, String value) {
        if (conf.contains(key) && !conf.get(key).equals(value)) {
            LOG.warn("{}={} is changed to {}: it does not go with Forebay", key, conf.get(key), value);
        }
        conf.set(key, value);
    }
}

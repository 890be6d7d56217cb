package io.forebay.spark;

import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Which Comet is there. What this module calls is Comet's own, and changes from version to version:
 * others than the tested ones are not called at all.
 */
final class CometVersion {
    private static final Logger LOG = LoggerFactory.getLogger(CometVersion.class);
    private static final String SPARK = "4.1.";
    private static final List<String> TESTED = Arrays.asList("1.2.0");

    /** Comet's switch for its exchanges; the second is an older name. */
    private static final String[] SWITCHES = {"spark.comet.shuffle.enabled", "spark.comet.exec.shuffle.enabled"};

    private CometVersion() {}

    /** Why the Comet in this JVM cannot shuffle with Forebay, and what could; null if it can. */
    static String refusal() {
        return refusal(comets(), Shim.sparkVersion());
    }

    static String refusal(String comet, String spark) {
        if (TESTED.contains(comet) && spark.startsWith(SPARK)) {
            return null;
        }
        return "Forebay is tested with Comet " + String.join(", ", TESTED) + " on Spark " + SPARK + "x, and this is Comet " + comet + " on Spark " + spark
                + ": use those, or leave the exchanges to Spark's rows (" + SWITCHES[0] + "=false)";
    }

    private static String comets() {
        Properties known = new Properties();
        try (InputStream in = CometShuffleManager.class.getResourceAsStream("/comet-git-info.properties")) {
            if (in != null) {
                known.load(in);
            }
        } catch (IOException e) {
            LOG.debug("Comet does not say its version", e);
        }
        return known.getProperty("git.build.version", "of unknown version");
    }

    /** On the driver, before a session reads the conf. */
    static void leaveShufflesToSpark(SparkConf conf, String refusal) {
        LOG.warn("Comet's exchanges are switched off, and Forebay shuffles Spark's rows instead. {}", refusal);
        for (String key : SWITCHES) {
            conf.set(key, "false");
        }
    }
}

package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;

class DriverSettingsTest {
    private static String refused(String key, String value) {
        SparkConf conf = new SparkConf(false).set(key, value);
        return assertThrows(IllegalArgumentException.class, () -> DriverSettings.prepare(conf)).getMessage();
    }

    @Test
    void whatPeopleForgetIsSet() {
        SparkConf conf = new SparkConf(false).set("spark.dynamicAllocation.shuffleTracking.enabled", "true");
        DriverSettings.prepare(conf);
        assertEquals("io.forebay.spark.ForebayShuffleDataIO", conf.get("spark.shuffle.sort.io.plugin.class"));
        assertEquals("false", conf.get("spark.dynamicAllocation.shuffleTracking.enabled"));
        assertEquals("false", conf.get("spark.shuffle.reduceLocality.enabled"));
        // A second context in the same JVM starts from what the first has set.
        DriverSettings.prepare(conf);
    }

    @Test
    void whatCannotWorkIsRefusedByNameWithTheRemedy() {
        for (String key :
                new String[] {
                    "spark.shuffle.service.enabled", "spark.shuffle.push.enabled", "spark.shuffle.useOldFetchProtocol"
                }) {
            String message = refused(key, "true");
            assertTrue(message.startsWith(key + "=true") && message.contains("set it to false"), message);
        }
        assertTrue(refused("spark.shuffle.sort.io.plugin.class", "com.example.Other").contains("com.example.Other"));
    }

    @Test
    void whatIsSwitchedOffIsAccepted() {
        SparkConf conf = new SparkConf(false).set("spark.shuffle.service.enabled", "false").set("spark.io.encryption.enabled", "true");
        DriverSettings.prepare(conf);
    }

    @Test
    void fallbackGivesSparkBackWhatItHadAndLeavesTheReason() {
        SparkConf bare = new SparkConf(false);
        DriverSettings.prepare(bare).restore("the reason");
        assertFalse(bare.contains("spark.shuffle.sort.io.plugin.class"));
        assertFalse(bare.contains("spark.dynamicAllocation.shuffleTracking.enabled"));
        assertFalse(bare.contains("spark.shuffle.reduceLocality.enabled"));
        assertEquals("the reason", bare.get("spark.forebay.status"));

        SparkConf set =
                new SparkConf(false)
                        .set("spark.dynamicAllocation.shuffleTracking.enabled", "true")
                        .set("spark.shuffle.sort.io.plugin.class", "io.forebay.spark.ForebayShuffleDataIO");
        DriverSettings.prepare(set).restore("the reason");
        assertEquals("true", set.get("spark.dynamicAllocation.shuffleTracking.enabled"));
        assertEquals("org.apache.spark.shuffle.sort.io.LocalDiskShuffleDataIO", set.get("spark.shuffle.sort.io.plugin.class"));
    }
}

package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;

class ForebayPluginTest {
    private static final String OURS = "io.forebay.spark.ForebayShuffleManager";

    private static SparkConf manager(String manager) {
        return new SparkConf(false).set("spark.shuffle.manager", manager);
    }

    @Test
    void managerIsSetWhereItIsNotTooLate() {
        for (SparkConf conf : new SparkConf[] {new SparkConf(false), manager("sort"), manager(OURS)}) {
            ForebayPlugin.activate(conf, "4.0.5");
            assertEquals(OURS, conf.get("spark.shuffle.manager"));
        }
    }

    @Test
    void whereItIsTooLateThePluginSaysSoUnlessTheManagerIsSetToo() {
        ForebayPlugin.activate(manager(OURS), "3.5.9");
        String message =
                assertThrows(IllegalArgumentException.class, () -> ForebayPlugin.activate(new SparkConf(false), "3.5.9")).getMessage();
        assertTrue(message.contains("3.5.9") && message.contains("set spark.shuffle.manager=" + OURS), message);
    }

    @Test
    void anotherManagerIsNotPushedAside() {
        String message =
                assertThrows(IllegalArgumentException.class, () -> ForebayPlugin.activate(manager("com.example.Other"), "4.3.0")).getMessage();
        assertTrue(message.contains("com.example.Other"), message);
    }
}

package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;

class AppIdentityTest {
    /** What the servers take, as `AppId` of the Rust crate has it. */
    private static final String TAKEN = "[A-Za-z0-9._-]{1,128}";

    private static AppIdentity of(String id) {
        return AppIdentity.of(new SparkConf(false).set("spark.app.id", id));
    }

    @Test
    void isTwoApplicationsToTheServersWhenTheSameIdComesAgain() {
        SparkConf conf = new SparkConf(false).set("spark.app.id", "nightly-report");
        AppIdentity first = AppIdentity.of(conf);
        AppIdentity second = AppIdentity.of(conf);
        assertEquals(first.spark(), second.spark());
        assertNotEquals(first.servers(), second.servers());
    }

    @Test
    void showsSparksIdAndItsAttempt() {
        assertEquals("application_1_0001", of("application_1_0001").spark());
        assertTrue(of("application_1_0001").servers().matches("application_1_0001-[0-9a-f]{16}"));
        SparkConf second = new SparkConf(false).set("spark.app.id", "application_1_0001").set("spark.app.attempt.id", "2");
        assertEquals("application_1_0001-2", AppIdentity.of(second).spark());
        assertTrue(AppIdentity.of(second).servers().matches("application_1_0001-2-[0-9a-f]{16}"));
    }

    @Test
    void takesAnyIdThatSparkTakes() {
        StringBuilder everything = new StringBuilder();
        for (char c = 0; c < 0x3000; c++) {
            everything.append(c);
        }
        String[] ids = {"", ".", "..", "../x", "a/b", "my app (nightly) №1 😀", "-", "x\ny", everything.toString(), new String(new char[500]).replace('\0', 'a')};
        for (String id : ids) {
            AppIdentity app = of(id);
            assertEquals(id, app.spark());
            assertTrue(app.servers().matches(TAKEN), app.servers());
            assertNotEquals(of(id).servers(), app.servers());
        }
        assertTrue(of("my app/1").servers().startsWith("my_app_1-"));
    }
}

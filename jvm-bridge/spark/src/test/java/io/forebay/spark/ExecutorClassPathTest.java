package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Optional;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;

class ExecutorClassPathTest {
    private static final String JAR = "/home/me/forebay-spark.jar";

    private static Optional<String> warning(String version, String master, String extraClassPath, String jars) {
        SparkConf conf =
                new SparkConf(false).set("spark.master", master).set("spark.executor.extraClassPath", extraClassPath).set("spark.jars", jars);
        return ExecutorClassPath.warning(conf, version, JAR);
    }

    @Test
    void jarThatOnlySparkJarsNamesIsWarnedOfOn35() {
        String message = warning("3.5.9", "yarn", "", "hdfs:///x.jar," + JAR).get();
        assertTrue(message.contains("spark.executor.extraClassPath") && message.contains("only in spark.jars"), message);
        assertTrue(message.contains("ClassNotFoundException: io.forebay.spark.ForebayShuffleManager"), message);
        assertTrue(warning("3.5.9", "spark://m:7077", "/opt/other.jar", "").isPresent());
    }

    @Test
    void whatWorksIsNotWarnedOf() {
        assertFalse(warning("4.0.0", "yarn", "", JAR).isPresent());
        assertFalse(warning("3.5.9", "local[2]", "", JAR).isPresent());
        assertFalse(warning("3.5.9", "local", "", "").isPresent());
        assertFalse(warning("3.5.9", "k8s://x", "/opt/a.jar:/opt/forebay-spark.jar", JAR).isPresent());
        assertFalse(warning("3.5.9", "k8s://x", "/opt/jars/*", "").isPresent());
    }
}

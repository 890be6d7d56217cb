package io.forebay.conformance;

import java.util.Properties;
import org.apache.spark.SparkConf;

/** System properties for suites that build their settings without a look at given ones. */
final class Settings {
  private Settings() {}

  static void putInto(SparkConf conf) {
    Properties properties = System.getProperties();
    for (String key : properties.stringPropertyNames()) {
      if (key.startsWith("spark.")) {
        conf.set(key, properties.getProperty(key));
      }
    }
  }
}

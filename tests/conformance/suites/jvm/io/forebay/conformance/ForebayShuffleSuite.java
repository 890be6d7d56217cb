package io.forebay.conformance;

import java.util.Properties;
import org.apache.spark.ShuffleSuite;

/**
 * Spark's own ShuffleSuite on Forebay. Its tests make their settings without looking at system properties, so a subclass has to put
 * ours in, as Spark's SortShuffleSuite does for Spark's own shuffle. All other suites take theirs from system properties.
 */
public class ForebayShuffleSuite extends ShuffleSuite {
  @Override
  public void beforeAll() {
    super.beforeAll();
    Properties properties = System.getProperties();
    for (String key : properties.stringPropertyNames()) {
      if (key.startsWith("spark.")) {
        conf().set(key, properties.getProperty(key));
      }
    }
  }
}

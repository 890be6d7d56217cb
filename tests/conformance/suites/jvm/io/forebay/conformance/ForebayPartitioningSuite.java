package io.forebay.conformance;

import org.apache.spark.PartitioningSuite;

/**
 * Spark's own PartitioningSuite on Forebay: up to Spark 3.5 its context is made without a look at
 * system properties.
 */
public class ForebayPartitioningSuite extends PartitioningSuite {
  @Override
  public void beforeAll() {
    Settings.putInto(conf());
    super.beforeAll();
  }
}

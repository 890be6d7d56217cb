package io.forebay.conformance;

import org.apache.spark.rdd.SortingSuite;

/**
 * Spark's own SortingSuite on Forebay: up to Spark 3.5 its context is made without a look at system
 * properties.
 */
public class ForebaySortingSuite extends SortingSuite {
  @Override
  public void beforeAll() {
    Settings.putInto(conf());
    super.beforeAll();
  }
}

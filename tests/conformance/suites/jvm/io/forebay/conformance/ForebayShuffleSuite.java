package io.forebay.conformance;

import org.apache.spark.ShuffleSuite;

/**
 * Spark's own ShuffleSuite on Forebay. Its tests make their settings without looking at system
 * properties, so a subclass has to put ours in, as Spark's SortShuffleSuite does for Spark's own
 * shuffle.
 */
public class ForebayShuffleSuite extends ShuffleSuite {
  @Override
  public void beforeAll() {
    super.beforeAll();
    Settings.putInto(conf());
  }
}

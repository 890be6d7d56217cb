package io.forebay.conformance;

import org.apache.spark.rdd.RDDSuite;

/**
 * Spark's own RDDSuite on Forebay: up to Spark 3.5 its context is made without a look at system
 * properties.
 */
public class ForebayRDDSuite extends RDDSuite {
  @Override
  public void beforeAll() {
    Settings.putInto(conf());
    super.beforeAll();
  }
}

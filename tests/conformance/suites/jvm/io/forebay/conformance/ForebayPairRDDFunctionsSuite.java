package io.forebay.conformance;

import org.apache.spark.rdd.PairRDDFunctionsSuite;

/**
 * Spark's own PairRDDFunctionsSuite on Forebay: up to Spark 3.5 its context is made without a look
 * at system properties.
 */
public class ForebayPairRDDFunctionsSuite extends PairRDDFunctionsSuite {
  @Override
  public void beforeAll() {
    Settings.putInto(conf());
    super.beforeAll();
  }
}

package io.forebay.conformance;

import org.apache.spark.ContextCleanerSuite;

/**
 * Spark's own ContextCleanerSuite on Forebay: it names Spark's own shuffle manager, whatever system
 * properties say.
 */
public class ForebayContextCleanerSuite extends ContextCleanerSuite {
  @Override
  public void beforeAll() {
    super.beforeAll();
    Settings.putInto(conf());
  }
}

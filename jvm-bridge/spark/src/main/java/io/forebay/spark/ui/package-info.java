/**
 * Forebay in Spark's UI: the tab of a running application and of the history server, and metrics
 * for Spark's own sinks.
 *
 * <p>The way of a number: a task counts in native code and reports with its result
 * ({@link io.forebay.spark.ui.TaskReports}, an accumulator: no connection, no thread and no
 * endpoint of Forebay's). The driver adds up the reports and posts them as events, which Spark
 * writes into the event log ({@link io.forebay.spark.ui.AppObserver}). One listener makes tables of
 * the events, in the live application and in the history server
 * ({@link io.forebay.spark.ui.StatusListener}), and one page shows the tables
 * ({@link io.forebay.spark.ui.ForebayPage}). Fetch failures need nothing of this: Spark's own
 * events contain them with the reason.
 */
package io.forebay.spark.ui;

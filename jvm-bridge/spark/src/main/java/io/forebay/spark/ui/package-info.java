/**
 * What people see of Forebay in Spark: the tab in the UI of a running application and in the history server, and the metrics that Spark's
 * own sinks carry away.
 *
 * <p>The way of a number: a task counts in native code, and tells with its result ({@link io.forebay.spark.ui.TaskReports}, an accumulator:
 * no connection, no thread and no endpoint of our own). The driver adds up what it is told and posts it as events, which Spark writes into the event log
 * ({@link io.forebay.spark.ui.AppObserver}). One listener makes tables of the events, in the live application and when the history server
 * reads the log ({@link io.forebay.spark.ui.StatusListener}), and one page shows them ({@link io.forebay.spark.ui.ForebayPage}). Fetch
 * failures need nothing of this: Spark's own events have them with the reason.
 */
package io.forebay.spark.ui;

package io.forebay.jobs;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.adaptive.AQEShuffleReadExec;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec;
import org.apache.spark.sql.execution.joins.BaseJoinExec;
import org.apache.spark.sql.execution.joins.BroadcastHashJoinExec;

/**
 * The final plan of a query that has run, in words that two runs have in common: no ids, no times.
 */
public final class Plans {
  private Plans() {}

  /**
   * One line per operator, indented by its depth. Joins with their type and build side, reads of a
   * shuffle with adaptive execution's number of partitions of each kind, shuffles with their number
   * of partitions.
   */
  public static List<String> shape(Dataset<?> query) {
    List<String> lines = new ArrayList<>();
    walk(query.queryExecution().executedPlan(), 0, (plan, depth) -> lines.add("  ".repeat(depth) + describe(plan)));
    return lines;
  }

  /** The SQL metrics of every shuffle of the plan, in the order of {@link #shape}. */
  public static List<Map<String, Long>> shuffles(Dataset<?> query) {
    List<Map<String, Long>> shuffles = new ArrayList<>();
    walk(query.queryExecution().executedPlan(), 0, (plan, depth) -> {
      if (plan instanceof ShuffleExchangeExec) {
        shuffles.add(metrics(plan));
      }
    });
    return shuffles;
  }

  private interface Visitor {
    void visit(SparkPlan plan, int depth);
  }

  private static void walk(SparkPlan plan, int depth, Visitor visitor) {
    if (plan instanceof AdaptiveSparkPlanExec) {
      walk(((AdaptiveSparkPlanExec) plan).executedPlan(), depth, visitor);
      return;
    }
    if (plan instanceof QueryStageExec) {
      walk(((QueryStageExec) plan).plan(), depth, visitor);
      return;
    }
    visitor.visit(plan, depth);
    scala.collection.Iterator<SparkPlan> children = plan.children().iterator();
    while (children.hasNext()) {
      walk(children.next(), depth + 1, visitor);
    }
  }

  private static String describe(SparkPlan plan) {
    if (plan instanceof BroadcastHashJoinExec) {
      return plan.nodeName() + " " + ((BroadcastHashJoinExec) plan).joinType() + " " + ((BroadcastHashJoinExec) plan).buildSide();
    }
    if (plan instanceof BaseJoinExec) {
      return plan.nodeName() + " " + ((BaseJoinExec) plan).joinType();
    }
    if (plan instanceof AQEShuffleReadExec) {
      Map<String, Integer> specs = new TreeMap<>();
      scala.collection.Iterator<?> all = ((AQEShuffleReadExec) plan).partitionSpecs().iterator();
      while (all.hasNext()) {
        specs.merge(all.next().getClass().getSimpleName(), 1, Integer::sum);
      }
      return "AQEShuffleRead " + specs;
    }
    if (plan instanceof ShuffleExchangeExec) {
      return "Exchange " + plan.outputPartitioning().numPartitions();
    }
    return plan.nodeName();
  }

  private static Map<String, Long> metrics(SparkPlan plan) {
    Map<String, Long> values = new TreeMap<>();
    scala.collection.Iterator<scala.Tuple2<String, org.apache.spark.sql.execution.metric.SQLMetric>> all = plan.metrics().iterator();
    while (all.hasNext()) {
      scala.Tuple2<String, org.apache.spark.sql.execution.metric.SQLMetric> metric = all.next();
      // A metric that nobody has counted is -1 in some lines and 0 in others.
      values.put(metric._1(), Math.max(0, (Long) metric._2().value()));
    }
    return values;
  }
}

package io.forebay.jobs;

import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.UUID;
import org.apache.spark.HashPartitioner;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.functions;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.util.TaskCompletionListener;
import scala.Function1;
import scala.Tuple2;
import scala.collection.AbstractIterator;
import scala.collection.Iterator;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * Jobs that are made to fail at a place, each with a gate at which the test does something to a
 * server.
 */
public final class Retries {
  private static final int RECORDS = 24_000;

  private Retries() {}

  /** Runs each named job; {@code gates} is the folder that the test watches. */
  public static String run(JavaSparkContext spark, String job, String gates) {
    switch (job) {
      case "twoAttempts":
        return twoAttempts(spark, gates);
      case "barrier":
        return barrier(spark, gates);
      case "barrierTask":
        return barrierTask(spark);
      case "garbage":
        return garbage(spark);
      case "indeterminate":
        return indeterminate(spark, gates);
      case "chain":
        return chain(spark, gates);
      default:
        throw new IllegalArgumentException("no job " + job);
    }
  }

  /**
   * Reads {@code rows} only when the gate is open: a reader asks the servers when it is made, which
   * is after the gate's task code.
   */
  private static <T> JavaRDD<T> behind(JavaSparkContext spark, String gates, String gate, List<Integer> waiting, JavaRDD<T> rows) {
    JavaRDD<Integer> guard = spark.parallelize(Collections.<Integer>emptyList(), rows.getNumPartitions()).mapPartitions(none -> {
      if (Gates.first() && waiting.contains(TaskContext.get().partitionId())) {
        Gates.pass(gates, gate);
      }
      return none;
    });
    return guard.zipPartitions(rows, (none, some) -> some);
  }

  /**
   * Three stages. In the second, task 0 has read its input and waits; task 1 is let to its input
   * when the test has taken a server's disk, and fails. So the stage is tried again while the first
   * attempt of task 0 still runs, and both write the same map's output.
   */
  private static String twoAttempts(JavaSparkContext spark, String gates) {
    JavaRDD<Tuple2<String, Integer>> sums =
        behind(spark, gates, "reader", List.of(1), Pairs.pairs(spark, RECORDS).reduceByKey(new HashPartitioner(2), Integer::sum).map(pair -> pair));
    JavaPairRDD<String, Integer> again = sums.mapPartitionsToPair(records -> {
      List<Tuple2<String, Integer>> all = new ArrayList<>();
      records.forEachRemaining(record -> all.add(new Tuple2<>(record._1(), record._2())));
      if (TaskContext.get().partitionId() == 0) {
        Gates.said(gates, "attempt-" + TaskContext.get().stageAttemptNumber());
        Gates.pass(gates, "writer-" + TaskContext.get().stageAttemptNumber());
      }
      return all.iterator();
    });
    return Pairs.digest(groups(again));
  }

  /**
   * A barrier stage writes the shuffle with partly lost outputs: Spark runs all of it again, as it
   * must.
   */
  private static String barrier(JavaSparkContext spark, String gates) {
    return Pairs.digest(behind(spark, gates, "reader", List.of(0, 1, 2), groups(atOnce(spark, records -> records))));
  }

  /**
   * One task of a barrier stage fails when the others may have written: what the first try of all
   * wrote is never read.
   */
  private static String barrierTask(JavaSparkContext spark) {
    return Pairs.digest(groups(atOnce(spark, FailsAtTheEnd::new)));
  }

  /** A task that is scala's {@code Function1} must be made serialisable by name. */
  private interface Task<T> extends Function1<Iterator<T>, Iterator<T>>, Serializable {}

  /** Pairs out of two tasks that are run at once or not at all. */
  private static JavaPairRDD<String, Integer> atOnce(JavaSparkContext spark, Task<Tuple2<String, Integer>> task) {
    ClassTag<Tuple2<String, Integer>> pair = ClassTag$.MODULE$.apply(Tuple2.class);
    return Pairs.pairs(spark, RECORDS, 2).rdd().barrier().mapPartitions(task, false, pair).toJavaRDD().mapToPair(record -> record);
  }

  private static JavaRDD<String> groups(JavaPairRDD<String, Integer> pairs) {
    return pairs.groupByKey(new HashPartitioner(3)).map(group -> group._1() + Pairs.sorted(group._2()));
  }

  /**
   * The first two attempts of each task write rows that are wrong, and fail when all are written.
   */
  private static String garbage(JavaSparkContext spark) {
    JavaPairRDD<String, Integer> pairs = Pairs.pairs(spark, RECORDS).mapPartitionsToPair(records -> {
      TaskContext task = TaskContext.get();
      if (task.attemptNumber() == 2) {
        return records;
      }
      List<Tuple2<String, Integer>> wrong = new ArrayList<>();
      records.forEachRemaining(record -> wrong.add(new Tuple2<>(record._1() + "wrong", 0)));
      task.addTaskCompletionListener(new FailsTheTask());
      return wrong.iterator();
    });
    return Pairs.digest(groups(pairs));
  }

  /**
   * Records in an order that differs from run to run are dealt out round robin: which Spark knows,
   * on every line.
   */
  private static String indeterminate(JavaSparkContext spark, String gates) {
    JavaRDD<Integer> shuffled = Pairs.pairs(spark, RECORDS).values().repartition(4).map(n -> n + 1).repartition(4);
    return Pairs.digest(behind(spark, gates, "reader", List.of(2, 3), shuffled.map(String::valueOf)));
  }

  /** Two shuffles, one read to write the other, which is read when the gate is open. */
  private static String chain(JavaSparkContext spark, String gates) {
    JavaPairRDD<String, Integer> second = Pairs.pairs(spark, RECORDS)
        .reduceByKey(new HashPartitioner(10), Integer::sum)
        .mapToPair(pair -> new Tuple2<>("s" + pair._2() % 1009, pair._2()));
    return Pairs.digest(behind(spark, gates, "reader", List.of(0, 1, 2), groups(second)));
  }

  // === rows ===

  /**
   * Numbers to partitions by a random key, so that a map which runs twice writes other rows each
   * time. Two of four reduce tasks end, the others wait at the gate before they read.
   */
  public static List<Long> randomRows(SparkSession session, String gates, int records) {
    JavaSparkContext spark = JavaSparkContext.fromSparkContext(session.sparkContext());
    UDF1<Long, String> random = number -> number + UUID.randomUUID().toString();
    session.udf().register("random_key", functions.udf(random, DataTypes.StringType).asNondeterministic());
    RDD<InternalRow> rows = Rows.runMaps(
        session.range(0, records, 1, 8).selectExpr("id", "random_key(id) AS k").repartition(4, functions.col("k")));
    JavaRDD<Long> ids = new JavaRDD<>(rows, rows.elementClassTag()).map(row -> row.getLong(0));
    return behind(spark, gates, "reader", List.of(2, 3), ids).collect();
  }

  /**
   * The rows of a stage whose tasks each wait after {@code after} rows; digested by
   * {@link Rows#digest}.
   */
  public static String pausedDigest(RDD<InternalRow> rows, String gates, int after) {
    JavaRDD<byte[]> copies = new JavaRDD<>(rows, rows.elementClassTag()).mapPartitions(partition -> new java.util.Iterator<byte[]>() {
      private int read;

      @Override
      public boolean hasNext() {
        return partition.hasNext();
      }

      @Override
      public byte[] next() {
        if (++read == after && Gates.first()) {
          Gates.pass(gates, "middle");
        }
        return ((UnsafeRow) partition.next()).getBytes().clone();
      }
    });
    return Pairs.digest(copies.map(bytes -> new String(bytes, StandardCharsets.ISO_8859_1)));
  }

  // === what fails ===

  private static final class FailsTheTask implements TaskCompletionListener {
    @Override
    public void onTaskCompletion(TaskContext task) {
      throw new IllegalStateException("fails after everything was written, as it is meant to");
    }
  }

  /** Task 1 of the first try fails behind its last record. */
  private static final class FailsAtTheEnd<T> extends AbstractIterator<T> {
    private final Iterator<T> records;

    FailsAtTheEnd(Iterator<T> records) {
      this.records = records;
    }

    @Override
    public boolean hasNext() {
      boolean more = records.hasNext();
      if (!more && Gates.first() && TaskContext.get().partitionId() == 1) {
        throw new IllegalStateException("fails at its end, as it is meant to");
      }
      return more;
    }

    @Override
    public T next() {
      return records.next();
    }
  }
}

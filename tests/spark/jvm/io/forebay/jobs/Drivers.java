package io.forebay.jobs;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaSparkContext;

/**
 * Queries on threads of the driver, which are interrupted and waited for as Spark's own servers do
 * it.
 */
public final class Drivers {
  private static final Map<String, Query> QUERIES = new ConcurrentHashMap<>();

  private Drivers() {}

  private static final class Query {
    Thread thread;
    volatile String outcome;
  }

  /** Starts a query, which registers a shuffle on its thread. */
  public static void start(JavaSparkContext spark, String name) {
    Query query = new Query();
    query.thread = new Thread(() -> {
      try {
        query.outcome = "answer: " + Pairs.run(spark, "reduceByKey", 4000);
      } catch (Throwable e) {
        query.outcome = e.getClass().getName() + ": " + e.getMessage();
      }
    }, name);
    QUERIES.put(name, query);
    query.thread.start();
  }

  /** What has come of it, or null. */
  public static String outcome(String name) {
    return QUERIES.get(name).outcome;
  }

  public static void interrupt(String name) {
    QUERIES.get(name).thread.interrupt();
  }

  /** Names of the queries whose threads are inside of a method of ours. */
  public static List<String> inside(String method) {
    List<String> found = new ArrayList<>();
    QUERIES.forEach((name, query) -> {
      for (StackTraceElement frame : query.thread.getStackTrace()) {
        if ((frame.getClassName() + "." + frame.getMethodName()).endsWith(method)) {
          found.add(name);
          break;
        }
      }
    });
    return found;
  }

  /** Stops the context, and makes, uses and stops so many more in this JVM. */
  public static void contexts(JavaSparkContext spark, int number) {
    SparkConf conf = spark.getConf();
    spark.stop();
    for (int i = 0; i < number; i++) {
      try (JavaSparkContext next = new JavaSparkContext(conf.clone().remove("spark.app.id"))) {
        Pairs.run(next, "reduceByKey", 1000);
      }
    }
  }

  /**
   * Stops the context, then makes a context with each of these settings, [key, value], and runs a
   * query on every one that starts.
   *
   * @return what was said, all causes, or "taken"
   */
  public static List<String> refusals(JavaSparkContext spark, List<List<String>> settings) {
    SparkConf conf = spark.getConf().clone().remove("spark.app.id").remove("spark.driver.port");
    spark.stop();
    List<String> said = new ArrayList<>();
    for (List<String> setting : settings) {
      try (JavaSparkContext next = new JavaSparkContext(conf.clone().set(setting.get(0), setting.get(1)))) {
        Pairs.run(next, "reduceByKey", 1000);
        said.add("taken");
      } catch (Throwable e) {
        StringBuilder all = new StringBuilder();
        for (Throwable cause = e; cause != null; cause = cause.getCause()) {
          all.append(cause.getMessage()).append('\n');
        }
        said.add(all.toString());
      }
    }
    return said;
  }

  /** Fills the heap. */
  public static void exhaust() {
    List<byte[]> held = new ArrayList<>();
    while (true) {
      held.add(new byte[1 << 20]);
    }
  }

  /**
   * Threads of ours on the Java side, but for the one of the log, of which a JVM has one; open
   * files, and threads of the process.
   */
  public static String leftBehind() throws Exception {
    long threads = Thread.getAllStackTraces().keySet().stream().filter(thread -> thread.getName().matches("forebay(?!-log$).*")).count();
    try (Stream<Path> open = Files.list(Paths.get("/proc/self/fd")); Stream<Path> tasks = Files.list(Paths.get("/proc/self/task"))) {
      return threads + " " + open.count() + " " + tasks.count();
    }
  }

  /** What happens to a SparkContext while a query registers. */
  public static long stop(JavaSparkContext spark) {
    long start = System.nanoTime();
    spark.stop();
    return (System.nanoTime() - start) / 1_000_000;
  }
}

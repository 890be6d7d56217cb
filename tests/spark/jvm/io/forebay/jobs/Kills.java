package io.forebay.jobs;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.SparkContext;
import org.apache.spark.SparkEnv;
import org.apache.spark.status.api.v1.ThreadStackTrace;
import org.apache.spark.storage.BlockManagerId;

/** Looks at what the executors' threads do, and kills a task in the middle of it. */
public final class Kills {
  private static final Pattern TASK = Pattern.compile("\\(TID (\\d+)\\)");

  /** The one thread that stays, for the native client's log. */
  private static final String LOG = "forebay-log";

  private Kills() {}

  /**
   * Waits until a task is inside the method; returns "executor task", or null if none was seen in
   * time.
   */
  public static String find(SparkContext spark, String method, long millis) {
    for (long end = System.currentTimeMillis() + millis; System.currentTimeMillis() < end; ) {
      for (String executor : executors()) {
        for (ThreadStackTrace thread : threads(spark, executor)) {
          Matcher task = TASK.matcher(thread.threadName());
          if (task.find() && thread.stackTrace().toString().contains(method + "(")) {
            return executor + " " + task.group(1);
          }
        }
      }
    }
    return null;
  }

  /**
   * Spark's treatment of a task no longer needed: an interrupt of its thread. The task is tried
   * again and counts as no failure.
   */
  public static boolean kill(SparkContext spark, long task) {
    return spark.killTaskAttempt(task, true, "killed by a test");
  }

  /** The stacks of all threads on executors that are in our code: none, where nothing runs. */
  public static List<String> busy(SparkContext spark) {
    List<String> found = new ArrayList<>();
    for (String executor : executors()) {
      for (ThreadStackTrace thread : threads(spark, executor)) {
        if (thread.stackTrace().toString().contains("io.forebay.") && !thread.threadName().equals(LOG)) {
          found.add("executor " + executor + ", " + thread.threadName() + ":\n" + thread.stackTrace());
        }
      }
    }
    return found;
  }

  /** Ids of tasks that run now. Before Spark 4 a thread without one keeps the name that it had from the last. */
  public static List<Long> running(SparkContext spark) {
    List<Long> found = new ArrayList<>();
    for (String executor : executors()) {
      for (ThreadStackTrace thread : threads(spark, executor)) {
        Matcher task = TASK.matcher(thread.threadName());
        if (task.find() && thread.stackTrace().toString().contains("TaskRunner.run(")) {
          found.add(Long.valueOf(task.group(1)));
        }
      }
    }
    return found;
  }

  private static ThreadStackTrace[] threads(SparkContext spark, String executor) {
    try {
      return spark.getExecutorThreadDump(executor).getOrElse(() -> new ThreadStackTrace[0]);
    } catch (RuntimeException e) {
      return new ThreadStackTrace[0]; // the executor is gone
    }
  }

  private static List<String> executors() {
    List<String> found = new ArrayList<>();
    scala.collection.Iterator<BlockManagerId> managers = SparkEnv.get().blockManager().master().getMemoryStatus().keysIterator();
    while (managers.hasNext()) {
      BlockManagerId manager = managers.next();
      if (!manager.isDriver()) {
        found.add(manager.executorId());
      }
    }
    return found;
  }
}

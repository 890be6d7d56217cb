package io.forebay.jobs;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.SparkEnv;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.rdd.RDD;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.unsafe.Platform;

/**
 * Questions of tests to SQL jobs without rows in Python: the two halves of a job one after the
 * other, a digest of its rows whatever their order, and the places of its map outputs.
 */
public final class Rows {
  private Rows() {}

  /**
   * Runs every stage but the last of an adaptive query and returns the RDD of the last one: its map
   * outputs exist unread, and running the RDD reads exactly them.
   */
  public static RDD<InternalRow> runMaps(Dataset<?> query) {
    return query.queryExecution().toRdd();
  }

  /**
   * Rows, and the sum and the exclusive or of a 64-bit hash over the bytes of each: equal for equal
   * multisets of rows.
   */
  public static String digest(RDD<InternalRow> rows) {
    long[] total = new JavaRDD<>(rows, rows.elementClassTag()).mapPartitions(partition -> {
      long[] part = new long[3];
      while (partition.hasNext()) {
        long hash = hash((UnsafeRow) partition.next());
        part[0]++;
        part[1] += hash;
        part[2] ^= hash;
      }
      return List.of(part).iterator();
    }).fold(new long[3], (a, b) -> new long[] {a[0] + b[0], a[1] + b[1], a[2] ^ b[2]});
    return total[0] + " rows " + Long.toHexString(total[1]) + " " + Long.toHexString(total[2]);
  }

  /** The number of rows of each partition. */
  public static List<Long> countPerPartition(RDD<InternalRow> rows) {
    return new ArrayList<>(new JavaRDD<>(rows, rows.elementClassTag()).mapPartitions(partition -> {
      long count = 0;
      for (; partition.hasNext(); partition.next()) {
        count++;
      }
      return List.of(count).iterator();
    }).collect());
  }

  /**
   * Word by word and without a copy: the benchmark runs this too, and wants to measure the shuffle.
   */
  private static long hash(UnsafeRow row) {
    Object base = row.getBaseObject();
    long hash = row.getSizeInBytes();
    for (long at = row.getBaseOffset(), end = at + row.getSizeInBytes(); at < end; at += 8) {
      hash = (hash ^ Platform.getLong(base, at)) * 0x9e3779b97f4a7c15L;
      hash ^= hash >>> 32;
    }
    return hash;
  }

  static long hash(byte[] bytes) {
    long hash = 0xcbf29ce484222325L;
    for (byte b : bytes) {
      hash = (hash ^ b) * 0x100000001b3L;
    }
    return hash ^ (hash >>> 29);
  }

  /**
   * Lines of "shuffle map location": the executor id under which each map output is registered ("-"
   * where none is).
   */
  public static List<String> mapLocations() {
    MapOutputTrackerMaster tracker = (MapOutputTrackerMaster) SparkEnv.get().mapOutputTracker();
    List<String> lines = new ArrayList<>();
    scala.collection.Iterator<?> shuffles = tracker.shuffleStatuses().keysIterator();
    while (shuffles.hasNext()) {
      int shuffle = (Integer) shuffles.next();
      MapStatus[] maps = tracker.shuffleStatuses().apply(shuffle).mapStatuses();
      for (int map = 0; map < maps.length; map++) {
        lines.add(shuffle + " " + map + " " + (maps[map] == null ? "-" : maps[map].location().executorId()));
      }
    }
    return lines;
  }

  /**
   * What Spark does when nothing refers to a shuffle any more, without waiting for a garbage
   * collection.
   */
  public static void forget(org.apache.spark.SparkContext context, int shuffle) {
    context.cleaner().get().doCleanupShuffle(shuffle, true);
  }
}

package io.forebay.jobs;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.apache.spark.HashPartitioner;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.serializer.JavaSerializer;
import org.apache.spark.serializer.KryoSerializer;
import org.apache.spark.serializer.Serializer;
import scala.Tuple2;

/**
 * Jobs on RDDs of JVM objects, each reduced to one text that is equal if and only if the result is.
 */
public final class Pairs {
  private static final int MAPS = 8;
  private static final int REDUCES = 13;

  private Pairs() {}

  /** Strings of very different lengths under skewed keys, the same ones each time. */
  static JavaPairRDD<String, Integer> pairs(JavaSparkContext spark, int records) {
    return pairs(spark, records, MAPS);
  }

  static JavaPairRDD<String, Integer> pairs(JavaSparkContext spark, int records, int maps) {
    List<Integer> starts = new ArrayList<>();
    for (int map = 0; map < maps; map++) {
      starts.add(map);
    }
    int perMap = records / maps;
    return spark.parallelize(starts, maps).flatMapToPair(map -> {
      List<Tuple2<String, Integer>> out = new ArrayList<>();
      for (int i = 0; i < perMap; i++) {
        int n = map * perMap + i;
        int key = n % 7 == 0 ? n % 3 : n * 31 % 5003;
        out.add(new Tuple2<>("k" + key + "x".repeat(key % 50), n));
      }
      return out.iterator();
    });
  }

  /** Runs the job of that name and digests its result. */
  public static String run(JavaSparkContext spark, String job, int records) {
    JavaPairRDD<String, Integer> pairs = pairs(spark, records);
    HashPartitioner partitioner = new HashPartitioner(REDUCES);
    switch (job) {
      case "groupByKey":
        return digest(pairs.groupByKey(partitioner).map(group -> group._1() + sorted(group._2())));
      case "reduceByKey": // combined on the map side
        return digest(pairs.reduceByKey(partitioner, Integer::sum).map(Tuple2::toString));
      case "sortByKey":
        return ordered(pairs.sortByKey(true, REDUCES));
      case "sortWithinPartitions":
        return digest(pairs.repartitionAndSortWithinPartitions(partitioner).map(Tuple2::toString));
      case "repartition":
        return digest(pairs.map(Tuple2::toString).repartition(REDUCES));
      case "cogroup":
        return digest(pairs.cogroup(pairs.mapValues(n -> -n).filter(p -> p._2() % 2 == 0), partitioner)
            .map(both -> both._1() + sorted(both._2()._1()) + sorted(both._2()._2())));
      case "combineWithJavaSerializer":
        return combine(pairs, partitioner, new JavaSerializer(spark.getConf()), true);
      case "combineWithKryo":
        return combine(pairs, partitioner, new KryoSerializer(spark.getConf()), true);
      case "groupWithJavaSerializer": // every record crosses
        return combine(pairs, partitioner, new JavaSerializer(spark.getConf()), false);
      case "groupLongKeysWithJavaSerializer": // keys that do not compress: megabytes from each task
        return combine(pairs.mapToPair(pair -> new Tuple2<>(noise(pair._2()), pair._2())), partitioner, new JavaSerializer(spark.getConf()), false);
      case "groupWithKryo":
        return combine(pairs, partitioner, new KryoSerializer(spark.getConf()), false);
      case "noRecords":
        return digest(pairs.filter(pair -> false).groupByKey(partitioner).map(Tuple2::toString));
      default:
        throw new IllegalArgumentException("no job " + job);
    }
  }

  private static String noise(int seed) {
    StringBuilder text = new StringBuilder();
    for (long i = 1, bits = seed; i <= 8; i++) {
      bits = (bits + i) * 0x9e3779b97f4a7c15L;
      bits ^= bits >>> 29;
      text.append(Long.toHexString(bits));
    }
    return text.toString();
  }

  private static String combine(
      JavaPairRDD<String, Integer> pairs, HashPartitioner partitioner, Serializer serializer, boolean onMapSide) {
    return digest(pairs.<Long>combineByKey(n -> (long) n, (sum, n) -> sum + n, Long::sum, partitioner, onMapSide, serializer)
        .map(Tuple2::toString));
  }

  /**
   * One map task's first attempt sleeps, so that a speculative copy (on another host) overtakes it.
   */
  public static String straggle(JavaSparkContext spark, int records, int sleepMillis) {
    JavaPairRDD<String, Integer> pairs = pairs(spark, records).mapPartitionsToPair(partition -> {
      TaskContext task = TaskContext.get();
      if (task.partitionId() == 3 && task.attemptNumber() == 0) {
        Thread.sleep(sleepMillis);
      }
      return partition;
    });
    return digest(pairs.reduceByKey(new HashPartitioner(REDUCES), Integer::sum).map(Tuple2::toString));
  }

  static List<Integer> sorted(Iterable<Integer> values) {
    List<Integer> list = new ArrayList<>();
    values.forEach(list::add);
    Collections.sort(list);
    return list;
  }

  static String digest(JavaRDD<String> rows) {
    long[] total = rows.mapPartitions(partition -> {
      long[] part = new long[3];
      while (partition.hasNext()) {
        long hash = Rows.hash(partition.next().getBytes("UTF-8"));
        part[0]++;
        part[1] += hash;
        part[2] ^= hash;
      }
      return List.of(part).iterator();
    }).fold(new long[3], (a, b) -> new long[] {a[0] + b[0], a[1] + b[1], a[2] ^ b[2]});
    return total[0] + " rows " + Long.toHexString(total[1]) + " " + Long.toHexString(total[2]);
  }

  /**
   * Fails where a key is smaller than the one before it; values of equal keys may come in any
   * order.
   */
  private static String ordered(JavaPairRDD<String, Integer> rows) {
    String last = "";
    for (Tuple2<String, Integer> row : rows.collect()) {
      if (row._1().compareTo(last) < 0) {
        return "not sorted: " + row._1() + " after " + last;
      }
      last = row._1();
    }
    return digest(rows.map(Tuple2::toString));
  }
}

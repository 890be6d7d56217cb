package io.forebay.jobs;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.apache.spark.HashPartitioner;
import org.apache.spark.Partitioner;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaPairRDD;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.PartitionPruningRDD;
import org.apache.spark.serializer.JavaSerializer;
import org.apache.spark.serializer.KryoRegistrator;
import org.apache.spark.serializer.KryoSerializer;
import org.apache.spark.serializer.Serializer;
import scala.Tuple2;

/**
 * RDD jobs whose records, keys, partitioners or serialisers are out of the ordinary; each gives a
 * text as {@link Pairs} does.
 */
public final class Shapes {
  private static final int RECORDS = 20_000;

  private Shapes() {}

  /** Runs the job of that name. */
  public static String run(JavaSparkContext spark, String job) {
    JavaPairRDD<String, Integer> pairs = Pairs.pairs(spark, RECORDS);
    HashPartitioner seven = new HashPartitioner(7);
    switch (job) {
      case "join":
        return Pairs.digest(pairs.join(pairs.mapValues(n -> n * 3).filter(pair -> pair._2() % 11 == 0), seven).map(Tuple2::toString));
      case "fullOuterJoinOfNullKeys":
        return Pairs.digest(withNulls(pairs).fullOuterJoin(withNulls(pairs).filter(pair -> pair._2() % 13 == 0).distinct(), seven)
            .map(pair -> pair._1() + " " + pair._2()._1().orElse(-1) + " " + pair._2()._2().orElse(-1)));
      case "sortByKeyDescending":
        return ordered(pairs.sortByKey(Collections.reverseOrder(), true, 9));
      case "aggregateByKey": // combined on the map side, into another type
        return Pairs.digest(pairs.aggregateByKey(new ArrayList<Integer>(), seven, Shapes::add, Shapes::addAll)
            .map(group -> group._1() + Pairs.sorted(group._2())));
      case "customPartitioner": // most partitions are empty, one has most of the records
        return placed(pairs, new Lopsided());
      case "dealtOut": // in turn: asked twice for each record, it would use every second partition only
        return placed(pairs, new DealtOut());
      case "nullKeysJava":
        return grouped(withNulls(pairs), seven, new JavaSerializer());
      case "nullKeysKryo":
        return grouped(withNulls(pairs), seven, new KryoSerializer(spark.getConf()));
      case "nullValues":
        return Pairs.digest(pairs.mapValues(n -> n % 3 == 0 ? null : n).partitionBy(seven).map(Tuple2::toString));
      case "kryoThatKeepsReferences": // not relocatable: what a record looks like depends on those before it
        SparkConf conf = spark.getConf().set("spark.kryo.registrator", KeepsReferences.class.getName());
        return grouped(pairs, seven, new KryoSerializer(conf));
      case "relocatableSerializer":
        return grouped(pairs, seven, new Framed(true));
      case "closedStreamSerializer":
        return grouped(pairs, seven, new Framed(false));
      case "onePartition":
        return grouped(pairs, new HashPartitioner(1), new KryoSerializer(spark.getConf()));
      case "oneMap":
        return grouped(Pairs.pairs(spark, RECORDS, 1), seven, new JavaSerializer());
      case "emptyRecords":
        return Pairs.digest(pairs.mapToPair(pair -> new Tuple2<>(new Bytes(new byte[0]), new byte[pair._2() % 2])).partitionBy(seven)
            .map(pair -> pair._1().hashCode() + " " + pair._2().length));
      case "manyPartitions":
        return manyPartitions(pairs, 20_000);
      default:
        throw new IllegalArgumentException("no job " + job);
    }
  }

  /**
   * Shuffles in which there is nothing: no maps, no partitions, no records. The text says how many
   * of each came out.
   */
  public static String nothing(JavaSparkContext spark, String job) {
    switch (job) {
      case "noMaps":
        return size(spark.<Tuple2<String, Integer>>emptyRDD().mapToPair(pair -> pair).groupByKey(new HashPartitioner(5)));
      case "noPartitions":
        return size(spark.<Tuple2<String, Integer>>emptyRDD().mapToPair(pair -> pair).partitionBy(new Nowhere()));
      case "sortOfNothing":
        return size(spark.<Tuple2<String, Integer>>emptyRDD().mapToPair(pair -> pair).sortByKey());
      case "mapsWithoutPartitions":
        return size(Pairs.pairs(spark, 80).filter(pair -> false).partitionBy(new Nowhere()));
      case "mapsWithoutRecords":
        return size(Pairs.pairs(spark, 80).filter(pair -> false).reduceByKey(new HashPartitioner(5), Integer::sum));
      default:
        throw new IllegalArgumentException("no job " + job);
    }
  }

  /** Every one of that many partitions read by a task of its own: the number of keys. */
  public static long everyPartition(JavaSparkContext spark, int partitions) {
    return Pairs.pairs(spark, RECORDS).groupByKey(new HashPartitioner(partitions)).count();
  }

  /** Of very many partitions all are written and every 400th is read. */
  private static String manyPartitions(JavaPairRDD<String, Integer> pairs, int partitions) {
    JavaRDD<String> groups = pairs.mapToPair(pair -> new Tuple2<>(pair._2(), pair._2()))
        .groupByKey(new HashPartitioner(partitions)).map(group -> group._1() + "" + Pairs.sorted(group._2()));
    scala.Function1<Object, Object> some = new Every(400);
    return Pairs.digest(PartitionPruningRDD.create(groups.rdd(), some).toJavaRDD());
  }

  private static String grouped(JavaPairRDD<String, Integer> pairs, Partitioner partitioner, Serializer serializer) {
    return Pairs.digest(pairs.<List<Integer>>combineByKey(
            n -> new ArrayList<>(Arrays.asList(n)), Shapes::add, Shapes::addAll, partitioner, false, serializer)
        .map(group -> group._1() + Pairs.sorted(group._2())));
  }

  private static <L extends List<Integer>> L add(L list, Integer n) {
    list.add(n);
    return list;
  }

  private static <L extends List<Integer>> L addAll(L list, L more) {
    list.addAll(more);
    return list;
  }

  private static JavaPairRDD<String, Integer> withNulls(JavaPairRDD<String, Integer> pairs) {
    return pairs.mapToPair(pair -> new Tuple2<>(pair._2() % 5000 == 0 ? null : pair._1(), pair._2()));
  }

  private static String size(JavaPairRDD<String, ?> rows) {
    return rows.getNumPartitions() + " partitions, " + rows.count() + " records";
  }

  private static String ordered(JavaPairRDD<String, Integer> rows) {
    List<Tuple2<String, Integer>> all = rows.collect();
    for (int i = 1; i < all.size(); i++) {
      if (all.get(i - 1)._1().compareTo(all.get(i)._1()) < 0) {
        return "not sorted: " + all.get(i)._1() + " after " + all.get(i - 1)._1();
      }
    }
    return Pairs.digest(rows.map(Tuple2::toString));
  }

  // === what the jobs are made of ===

  /** Nine records of ten go to partition 3 of 101. */
  private static final class Lopsided extends Partitioner {
    @Override
    public int numPartitions() {
      return 101;
    }

    @Override
    public int getPartition(Object key) {
      int hash = key.hashCode() & 0xffff;
      return hash % 10 > 0 ? 3 : hash % 101;
    }
  }

  private static final class Nowhere extends Partitioner {
    @Override
    public int numPartitions() {
      return 0;
    }

    @Override
    public int getPartition(Object key) {
      throw new IllegalStateException("a record where there is none");
    }
  }

  private static final class Every extends scala.runtime.AbstractFunction1<Object, Object> implements java.io.Serializable {
    private final int step;

    Every(int step) {
      this.step = step;
    }

    @Override
    public Object apply(Object partition) {
      return (Integer) partition % step == 0;
    }
  }

  /** A key of bytes. */
  private static final class Bytes implements java.io.Serializable {
    private final byte[] bytes;

    Bytes(byte[] bytes) {
      this.bytes = bytes;
    }

    @Override
    public int hashCode() {
      return Arrays.hashCode(bytes);
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof Bytes && Arrays.equals(bytes, ((Bytes) other).bytes);
    }
  }

  /**
   * Makes Kryo write a repeated object as a reference, over the whole stream.
   */
  public static final class KeepsReferences implements KryoRegistrator {
    @Override
    public void registerClasses(com.esotericsoftware.kryo.Kryo kryo) {
      kryo.setAutoReset(false);
    }
  }

  /** Records with the number of their partition. */
  private static String placed(JavaPairRDD<String, Integer> pairs, Partitioner partitioner) {
    return Pairs.digest(pairs.partitionBy(partitioner).mapPartitionsWithIndex((index, records) -> {
      List<String> lines = new ArrayList<>();
      records.forEachRemaining(record -> lines.add(index + record.toString()));
      return lines.iterator();
    }, false));
  }

  /** Gives one partition after the other, whatever the key. */
  private static final class DealtOut extends Partitioner {
    private int last;

    @Override
    public int numPartitions() {
      return 6;
    }

    @Override
    public int getPartition(Object key) {
      last = (last + 1) % 6;
      return last;
    }
  }
}

package io.forebay.spark;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import org.apache.spark.Aggregator;
import org.apache.spark.Partitioner;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.package$;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.util.collection.ExternalSorter;
import scala.Option;
import scala.collection.Iterator;
import scala.math.Ordering;

/**
 * All differences between Spark 3.5, 4.0, 4.1, 4.2 and 4.3. Compiled against 3.5; method handles
 * are resolved once, when the class is loaded, and are constants to the compiler afterwards. A
 * Spark without a known shape is refused then, with the missing method's name.
 */
final class Shim {
    private static final MethodHandles.Lookup LOOKUP = MethodHandles.publicLookup();

    /** (BlockManagerId, long[], long attempt, long checksum)MapStatus. */
    private static final MethodHandle MAP_STATUS = mapStatus();

    /** (TaskContext, Option, Option, Option, Serializer)ExternalSorter. */
    private static final MethodHandle SORTER = sorter();

    /** (ShuffleDependency)Object[]. */
    private static final MethodHandle CHECKSUMS;

    /** (Object checksum, Object key, Object value)void; null without row checksums. */
    private static final MethodHandle UPDATE;

    /** (Object[])long; null without row checksums. */
    private static final MethodHandle AGGREGATE;

    static {
        // SPARK-51756 (4.1): row checksums.
        Class<?> checksum = find("org.apache.spark.shuffle.checksum.RowBasedChecksum");
        try {
            if (checksum == null) {
                CHECKSUMS = MethodHandles.dropArguments(MethodHandles.constant(Object[].class, new Object[0]), 0, ShuffleDependency.class);
                UPDATE = null;
                AGGREGATE = null;
            } else {
                Class<?> array = java.lang.reflect.Array.newInstance(checksum, 0).getClass();
                CHECKSUMS =
                        LOOKUP.findVirtual(ShuffleDependency.class, "rowBasedChecksums", MethodType.methodType(array))
                                .asType(MethodType.methodType(Object[].class, ShuffleDependency.class));
                UPDATE =
                        LOOKUP.findVirtual(checksum, "update", MethodType.methodType(void.class, Object.class, Object.class))
                                .asType(MethodType.methodType(void.class, Object.class, Object.class, Object.class));
                AGGREGATE =
                        LOOKUP.findStatic(checksum, "getAggregatedChecksumValue", MethodType.methodType(long.class, array))
                                .asType(MethodType.methodType(long.class, Object[].class));
            }
        } catch (ReflectiveOperationException e) {
            throw unsupported("RowBasedChecksum", e);
        }
    }

    private Shim() {}

    /**
     * The status of a map task; the checksum is 0 on lines without row checksums, and of no use
     * there.
     */
    static MapStatus mapStatus(BlockManagerId location, long[] sizes, long attempt, long checksum) {
        try {
            return (MapStatus) MAP_STATUS.invokeExact(location, sizes, attempt, checksum);
        } catch (Throwable e) {
            throw Sneaky.rethrow(e);
        }
    }

    /** A sorter with spills on the executor's disk, as in Spark's own shuffle. */
    @SuppressWarnings("unchecked")
    static <K, V, C> ExternalSorter<K, V, C> sorter(
            TaskContext context,
            Option<Aggregator<K, V, C>> aggregator,
            Option<Partitioner> partitioner,
            Option<Ordering<K>> ordering,
            Serializer serializer) {
        try {
            return (ExternalSorter<K, V, C>)
                    (ExternalSorter<?, ?, ?>) SORTER.invokeExact(context, (Option<?>) aggregator, (Option<?>) partitioner, (Option<?>) ordering, serializer);
        } catch (Throwable e) {
            throw Sneaky.rethrow(e);
        }
    }

    /** One checksum per partition, or none where Spark has none or wants none. */
    static Object[] rowChecksums(ShuffleDependency<?, ?, ?> dependency) {
        try {
            Object[] checksums = (Object[]) CHECKSUMS.invokeExact((ShuffleDependency<?, ?, ?>) dependency);
            return checksums == null ? new Object[0] : checksums;
        } catch (Throwable e) {
            throw Sneaky.rethrow(e);
        }
    }

    static void updateChecksum(Object checksum, Object key, Object value) {
        try {
            UPDATE.invokeExact(checksum, key, value);
        } catch (Throwable e) {
            throw Sneaky.rethrow(e);
        }
    }

    /** What {@link #mapStatus} is told. */
    static long aggregate(Object[] checksums) {
        if (checksums.length == 0) {
            return 0;
        }
        try {
            return (long) AGGREGATE.invokeExact(checksums);
        } catch (Throwable e) {
            throw Sneaky.rethrow(e);
        }
    }

    /**
     * Iterates a Seq, which is another type in Scala 2.13 (SPARK-45314, 4.0: Scala 2.12 dropped)
     * and the same from here on.
     */
    @SuppressWarnings("unchecked")
    static <T> Iterator<T> iterate(Object seq) {
        return ((scala.collection.Iterable<T>) seq).iterator();
    }

    static String sparkVersion() {
        return package$.MODULE$.SPARK_VERSION();
    }

    // === what a serialiser does not show ===

    /**
     * Whether records are UnsafeRows, which need no serialiser. By name: an executor without Spark
     * SQL has no such class.
     */
    static boolean isUnsafeRows(Serializer serializer) {
        return serializer.getClass().getName().equals("org.apache.spark.sql.execution.UnsafeRowSerializer");
    }

    /** A private field of {@code UnsafeRowSerializer}, the same in all lines. */
    static Object unsafeRowField(Serializer serializer, String name) {
        try {
            Field field = serializer.getClass().getDeclaredField(name);
            field.setAccessible(true);
            return field.get(serializer);
        } catch (ReflectiveOperationException e) {
            throw unsupported("UnsafeRowSerializer." + name, e);
        }
    }

    // === resolving ===

    private static MethodHandle mapStatus() {
        MethodType wanted = MethodType.methodType(MapStatus.class, BlockManagerId.class, long[].class, long.class, long.class);
        try {
            for (Method method : MapStatus.class.getMethods()) {
                if (method.getName().equals("apply") && Modifier.isStatic(method.getModifiers())) {
                    switch (method.getParameterCount()) {
                        case 3:
                            return MethodHandles.dropArguments(LOOKUP.unreflect(method), 3, long.class).asType(wanted);
                        case 4: // SPARK-51756 (4.1): + checksum
                            return LOOKUP.unreflect(method).asType(wanted);
                        default:
                    }
                }
            }
        } catch (IllegalAccessException e) {
            throw unsupported("MapStatus.apply", e);
        }
        throw unsupported("MapStatus.apply", null);
    }

    private static MethodHandle sorter() {
        MethodType wanted =
                MethodType.methodType(ExternalSorter.class, TaskContext.class, Option.class, Option.class, Option.class, Serializer.class);
        try {
            for (Constructor<?> constructor : ExternalSorter.class.getConstructors()) {
                switch (constructor.getParameterCount()) {
                    case 5:
                        return LOOKUP.unreflectConstructor(constructor).asType(wanted);
                    case 6: // SPARK-51756 (4.1): + checksums, which our writer keeps itself
                        Object none = java.lang.reflect.Array.newInstance(constructor.getParameterTypes()[5].getComponentType(), 0);
                        return MethodHandles.insertArguments(LOOKUP.unreflectConstructor(constructor), 5, none).asType(wanted);
                    default:
                }
            }
        } catch (IllegalAccessException e) {
            throw unsupported("ExternalSorter", e);
        }
        throw unsupported("ExternalSorter", null);
    }

    private static Class<?> find(String name) {
        try {
            return Class.forName(name, false, ShuffleDependency.class.getClassLoader());
        } catch (ClassNotFoundException e) {
            return null;
        }
    }

    private static IllegalStateException unsupported(String what, Throwable cause) {
        return new IllegalStateException(
                "Spark " + sparkVersion() + " is not a version that this Forebay knows (its " + what + " is different): use 3.5, 4.0, 4.1, 4.2 or 4.3",
                cause);
    }
}

package io.forebay.spark;

import java.lang.reflect.Field;
import java.security.CodeSource;
import org.apache.spark.shuffle.BaseShuffleHandle;
import org.apache.spark.shuffle.ShuffleHandle;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A handle that is ours by the name of its class and not by the class: the jar was loaded twice in this JVM. A 3.5 executor makes the
 * shuffle manager from its own class path; with {@code spark.executor.userClassPathFirst} its tasks get their classes from {@code --jars}
 * before that, and so a handle's class is another one than the manager's.
 *
 * <p>invariant: no-silent-fallback. Such a handle is taken over field by field or refused by name. It is never taken for one of Spark's
 * own shuffle, whose writer would accept it, and whose files would go with the executor that the driver believes expendable.
 */
final class ForeignHandle {
    private static final Logger LOG = LoggerFactory.getLogger(ForeignHandle.class);
    private static boolean said;

    private ForeignHandle() {}

    /** Whether the class of the handle has the name of ours. */
    static boolean is(ShuffleHandle handle) {
        return handle.getClass().getName().equals(ForebayShuffleHandle.class.getName());
    }

    /** The same as a handle of the class that this code knows; an {@link IllegalStateException} says what to do where that cannot be. */
    static <K, V, C> ForebayShuffleHandle<K, V, C> adopt(ShuffleHandle foreign) {
        try {
            @SuppressWarnings("unchecked")
            BaseShuffleHandle<K, V, C> base = (BaseShuffleHandle<K, V, C>) foreign;
            Object number = field(foreign, "number");
            ForebayShuffleHandle<K, V, C> handle =
                    new ForebayShuffleHandle<>(
                            foreign.shuffleId(),
                            ShuffleNumbers.Current.of((Integer) field(number, "value")),
                            base.dependency(),
                            (String) field(foreign, "app"),
                            (String) field(foreign, "token"),
                            (Long) field(foreign, "leaseMillis"),
                            (String[]) field(foreign, "candidates"),
                            (String) field(foreign, "durability"),
                            (Integer) field(foreign, "numMaps"),
                            (Integer) field(foreign, "numPartitions"),
                            (String) field(foreign, "compression"),
                            // What tasks tell is of another class too.
                            null);
            warn(foreign);
            return handle;
        } catch (ReflectiveOperationException | RuntimeException e) {
            throw new IllegalStateException(
                    "shuffle " + foreign.shuffleId() + " cannot be read or written here: " + twice(foreign) + ", and the two do not fit together (" + e
                            + ")",
                    e);
        }
    }

    /** What happened, by both names, and the remedy. */
    static String twice(ShuffleHandle foreign) {
        return "Forebay's classes were loaded twice in this JVM, for the shuffle manager by " + from(ForebayShuffleHandle.class) + " and for its tasks by "
                + from(foreign.getClass())
                + ". Put the jar on one class path only (on Spark 3.5 into spark.executor.extraClassPath and not into spark.jars), or set "
                + "spark.executor.userClassPathFirst and spark.driver.userClassPathFirst to false";
    }

    private static synchronized void warn(ShuffleHandle foreign) {
        if (!said) {
            said = true;
            LOG.warn("{}. Shuffles work; what tasks of this executor do is missing in the Forebay tab", twice(foreign));
        }
    }

    private static String from(Class<?> ours) {
        CodeSource source = ours.getProtectionDomain().getCodeSource();
        ClassLoader loader = ours.getClassLoader();
        return (loader == null ? "the boot loader" : loader.getClass().getName() + "@" + Integer.toHexString(System.identityHashCode(loader)))
                + (source == null ? "" : " from " + source.getLocation());
    }

    private static Object field(Object of, String name) throws ReflectiveOperationException {
        Field field = of.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field.get(of);
    }
}

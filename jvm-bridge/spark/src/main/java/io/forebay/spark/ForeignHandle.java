package io.forebay.spark;

import io.forebay.core.Caller;
import io.forebay.core.ShuffleLayout;
import java.lang.reflect.Field;
import java.security.CodeSource;
import org.apache.spark.shuffle.BaseShuffleHandle;
import org.apache.spark.shuffle.ShuffleHandle;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A handle with the name of Forebay's class, and another class: the jar was loaded twice in this
 * JVM. A 3.5 executor makes the shuffle manager from its own class path; with
 * {@code spark.executor.userClassPathFirst} its tasks load classes from {@code --jars} first, so
 * the handle's class differs from the manager's.
 *
 * <p>invariant: no-silent-fallback. Such a handle is taken over field by field or refused by name.
 * It must not pass for a handle of Spark's own shuffle, whose writer would accept it, and whose
 * files would go with an executor the driver believes expendable.
 */
final class ForeignHandle {
    private static final Logger LOG = LoggerFactory.getLogger(ForeignHandle.class);
    private static boolean said;

    private ForeignHandle() {}

    /** Whether the class of the handle has the name of ours. */
    static boolean is(ShuffleHandle handle) {
        return handle.getClass().getName().equals(ForebayShuffleHandle.class.getName());
    }

    /**
     * The handle in the manager's class; an {@link IllegalStateException} names the remedy if the
     * fields do not fit.
     */
    static <K, V, C> ForebayShuffleHandle<K, V, C> adopt(ShuffleHandle foreign) {
        try {
            @SuppressWarnings("unchecked")
            BaseShuffleHandle<K, V, C> base = (BaseShuffleHandle<K, V, C>) foreign;
            Object number = field(foreign, "number");
            Caller caller =
                    new Caller(
                            (String) field(foreign, "app"),
                            (String) field(foreign, "token"),
                            (Long) field(foreign, "leaseMillis"));
            ShuffleLayout layout =
                    new ShuffleLayout(
                            (Integer) field(foreign, "numMaps"),
                            (Integer) field(foreign, "numPartitions"),
                            (String[]) field(foreign, "candidates"),
                            (String) field(foreign, "durability"),
                            (String) field(foreign, "compression"));
            ForebayShuffleHandle<K, V, C> handle =
                    new ForebayShuffleHandle<>(
                            foreign.shuffleId(),
                            ShuffleNumbers.Current.of((Integer) field(number, "value")),
                            base.dependency(),
                            caller,
                            // The other's is out of reach, and newer with the next stage.
                            null,
                            layout,
                            (String[]) field(foreign, "tls"),
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

package io.forebay.spark;

import java.lang.reflect.Field;
import org.apache.spark.MapOutputTracker;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Makes Spark prefer no host for tasks that read a shuffle. Spark would prefer the hosts of the
 * largest map outputs, and Forebay's are volumes without executors: in a stage with other preferred
 * hosts (a union with a cached RDD, say) such tasks would wait for {@code spark.locality.wait}, and
 * in local mode, where no second offer comes after that time, for ever.
 *
 * <p>{@code spark.shuffle.reduceLocality.enabled=false} is Spark's own switch. Spark's map output
 * tracker reads the switch when it is made, before the shuffle manager, so the tracker is told
 * afterwards.
 */
final class ReduceLocality {
    private static final Logger LOG = LoggerFactory.getLogger(ReduceLocality.class);

    private ReduceLocality() {}

    /** On the driver. */
    static void switchOff(MapOutputTracker tracker) {
        try {
            Field field = tracker.getClass().getDeclaredField("shuffleLocalityEnabled"); // the same in all lines
            field.setAccessible(true);
            field.setBoolean(tracker, false);
        } catch (ReflectiveOperationException | RuntimeException e) {
            LOG.warn(
                    "Spark prefers hosts for tasks that read a shuffle, where there are none: start the application with "
                            + "spark.shuffle.reduceLocality.enabled=false, or some of its stages may wait in vain ({})",
                    e.toString());
        }
    }
}

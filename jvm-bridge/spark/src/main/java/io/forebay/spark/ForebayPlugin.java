package io.forebay.spark;

import java.util.Collections;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.apache.spark.api.plugin.SparkPlugin;

/**
 * {@code spark.plugins=io.forebay.spark.ForebayPlugin}: switches Forebay on, on Spark 4.0 and
 * newer, where plugins start before the shuffle manager (SPARK-45762). On 3.5 the plugin reports
 * its uselessness.
 */
public final class ForebayPlugin implements SparkPlugin {
    static final String MANAGER = "spark.shuffle.manager";

    @Override
    public DriverPlugin driverPlugin() {
        return new Driver();
    }

    /** Nothing to do there: executors have their settings from the driver. */
    @Override
    public ExecutorPlugin executorPlugin() {
        return null;
    }

    private static final class Driver implements DriverPlugin {
        @Override
        public Map<String, String> init(SparkContext context, PluginContext plugin) {
            activate(plugin.conf(), Shim.sparkVersion());
            return Collections.emptyMap();
        }
    }

    /** Ours for applications with Comet. By name: without Comet the class cannot be loaded. */
    private static final String COMET_MANAGER = "io.forebay.spark.ForebayCometShuffleManager";

    /**
     * Sets the manager in the driver's live conf; an {@link IllegalArgumentException} says why that
     * cannot be.
     */
    static void activate(SparkConf conf, String sparkVersion) {
        String ours = ForebayShuffleManager.class.getName();
        String manager = conf.get(MANAGER, "sort");
        if (manager.equals(ours) || manager.equals(COMET_MANAGER)) {
            return;
        }
        if (sparkVersion.startsWith("3.")) {
            // The driver would go on with Spark's own manager, and executors, which are told the
            // conf later, would use ours.
            throw new IllegalArgumentException(
                    "spark.plugins=" + ForebayPlugin.class.getName() + " cannot switch Forebay on in Spark " + sparkVersion
                            + ", whose driver has made its shuffle manager when plugins start: set " + MANAGER + "=" + ours + " as well");
        }
        if (!manager.equals("sort") && !manager.equals("tungsten-sort") && !manager.equals("org.apache.spark.shuffle.sort.SortShuffleManager")) {
            throw new IllegalArgumentException(
                    MANAGER + "=" + manager + " and spark.plugins=" + ForebayPlugin.class.getName() + " name two shuffle managers: remove one of them");
        }
        conf.set(MANAGER, ours);
    }
}

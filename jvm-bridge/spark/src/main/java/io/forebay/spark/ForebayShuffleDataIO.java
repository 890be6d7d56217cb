package io.forebay.spark;

import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;
import org.apache.spark.shuffle.ShuffleManager;
import org.apache.spark.shuffle.api.ShuffleDriverComponents;
import org.apache.spark.shuffle.sort.io.LocalDiskShuffleDataIO;
import org.apache.spark.shuffle.sort.io.LocalDiskShuffleDriverComponents;

/**
 * Tells Spark that map outputs on Forebay's servers outlive executors. Set by the shuffle manager
 * on the driver. Files are handled by Spark's own implementation: no Forebay data pass through.
 */
public final class ForebayShuffleDataIO extends LocalDiskShuffleDataIO {
    /** Called by Spark. */
    public ForebayShuffleDataIO(SparkConf conf) {
        super(conf);
    }

    @Override
    public ShuffleDriverComponents driver() {
        return new Driver();
    }

    private static final class Driver extends LocalDiskShuffleDriverComponents {
        @Override
        public Map<String, String> initializeApplication() {
            ShuffleManager manager = SparkEnv.get().shuffleManager();
            if (ForebayShuffleManager.of(manager) == null) {
                if (manager.getClass().getName().equals(ForebayShuffleManager.class.getName())) {
                    throw new IllegalArgumentException(
                            "Forebay's jar was loaded twice on the driver, by " + manager.getClass().getClassLoader() + " and by "
                                    + ForebayShuffleManager.class.getClassLoader()
                                    + ": put it on one class path only, or set spark.driver.userClassPathFirst=false");
                }
                throw new IllegalArgumentException(
                        DriverSettings.IO_PLUGIN + " is Forebay's, but spark.shuffle.manager is not: remove the key, or set the manager to "
                                + ForebayShuffleManager.class.getName());
            }
            app().start();
            return super.initializeApplication();
        }

        /** Asked again and again; not before {@link #initializeApplication}. */
        @Override
        public boolean supportsReliableStorage() {
            DriverApp app = app();
            return app != null && app.status().isActive();
        }

        @Override
        public void removeShuffle(int shuffle, boolean blocking) {
            DriverApp app = app();
            if (app != null) {
                app.removeShuffle(shuffle, blocking);
            }
            super.removeShuffle(shuffle, blocking);
        }

        @Override
        public void cleanupApplication() {
            DriverApp app = app();
            if (app != null) {
                app.close();
            }
            super.cleanupApplication();
        }

        /** Null once Spark's environment is gone: then the manager has been stopped too. */
        private static DriverApp app() {
            SparkEnv env = SparkEnv.get();
            ShuffleManager manager = env == null ? null : env.shuffleManager();
            ForebayShuffleManager ours = ForebayShuffleManager.of(manager);
            return ours == null ? null : ours.app();
        }
    }
}

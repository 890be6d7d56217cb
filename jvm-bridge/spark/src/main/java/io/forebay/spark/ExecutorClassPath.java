package io.forebay.spark;

import java.security.CodeSource;
import java.util.Optional;
import org.apache.spark.SparkConf;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * On Spark 3.5 executors make the shuffle manager before they fetch {@code --jars} (changed by
 * SPARK-45762, 4.0). Without the jar on their own class path they end, one after the other, with a
 * ClassNotFoundException invisible on the driver. The executors' image is unknown to the driver, so
 * the driver warns and refuses nothing.
 */
final class ExecutorClassPath {
    private static final Logger LOG = LoggerFactory.getLogger(ExecutorClassPath.class);
    private static final String EXTRA = "spark.executor.extraClassPath";

    private ExecutorClassPath() {}

    /** Warns if executors will probably not find the jar. */
    static void check(SparkConf conf) {
        CodeSource source = ForebayShuffleManager.class.getProtectionDomain().getCodeSource();
        String jar = source == null ? "" : source.getLocation().getPath();
        warning(conf, Shim.sparkVersion(), jar).ifPresent(LOG::warn);
    }

    /**
     * @param jar path of the jar that the driver has its classes from
     */
    static Optional<String> warning(SparkConf conf, String sparkVersion, String jar) {
        String master = conf.get("spark.master", "local");
        boolean sameProcess = master.equals("local") || master.startsWith("local[");
        // A driver with the jar in Spark's own folder probably runs in the executors' image.
        boolean inImage = jar.matches(".*/jars/[^/]*") && sparkFolder(jar);
        if (!sparkVersion.startsWith("3.") || sameProcess || inImage || named(conf.get(EXTRA, ""), ":", fileName(jar))) {
            return Optional.empty();
        }
        boolean fetched = named(conf.get("spark.jars", ""), ",", fileName(jar));
        return Optional.of(
                "Spark " + sparkVersion + " executors make their shuffle manager "
                        + (fetched ? "before they fetch " + fileName(jar) + ", which is only in spark.jars" : "from their own class path")
                        + ", and " + EXTRA + " does not name the jar: unless it is in their image (in Spark's folder jars), they end with "
                        + "\"ClassNotFoundException: " + ForebayShuffleManager.class.getName() + "\" and no job gets on. Put the jar into the "
                        + "image and name it in " + EXTRA + ", or use Spark 4.0 or newer");
    }

    private static boolean sparkFolder(String jar) {
        String home = System.getenv("SPARK_HOME");
        return home != null && jar.startsWith(home + "/jars/");
    }

    /** Whether an entry is that file, or a folder of jars, into which we cannot look. */
    private static boolean named(String list, String separator, String file) {
        for (String entry : list.split(separator)) {
            String name = fileName(entry.trim());
            if (!name.isEmpty() && (name.equals(file) || name.equals("*"))) {
                return true;
            }
        }
        return false;
    }

    private static String fileName(String path) {
        return path.substring(path.lastIndexOf('/') + 1);
    }
}

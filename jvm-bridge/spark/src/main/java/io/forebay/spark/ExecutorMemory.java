package io.forebay.spark;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.SparkConf;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The native memory shared by the tasks of a JVM: a part of the executor's memory beside its heap,
 * {@code spark.executor.memoryOverhead}, or of its container's rest if smaller. The other part is
 * the JVM's: classes, compiled code, threads, the collector's tables, Netty.
 *
 * <p>The native side divides the memory among running tasks; there is no division by cores here,
 * since not every cluster manager tells their number.
 */
final class ExecutorMemory {
    private static final Logger LOG = LoggerFactory.getLogger(ExecutorMemory.class);

    static final String OVERHEAD = "spark.executor.memoryOverhead";
    private static final long MIB = 1 << 20;

    /**
     * Memory of a JVM with Spark tasks beside its heap, before the first shuffle: 200 MiB and 50 of
     * mapped files were measured.
     */
    private static final long JVM = 256 * MIB;

    /** Least that is of any use. */
    private static final long LEAST = 32 * MIB;

    /**
     * Least memory of a task: a piece of an arena, the messages being built and sent, one stream.
     */
    private static final long LEAST_PER_TASK = 8 * MIB;

    private static final Pattern LOCAL_CLUSTER = Pattern.compile("local-cluster\\[\\s*[0-9]+\\s*,\\s*([0-9]+)\\s*,\\s*[0-9]+\\s*]");

    private ExecutorMemory() {}

    /**
     * Of this JVM.
     *
     * @param local whether it is a driver that runs tasks itself
     * @return nothing if there is no bound
     */
    static OptionalLong ofThisJvm(SparkConf conf, boolean local) {
        OptionalLong container = container(Paths.get("/proc/self/cgroup"), Paths.get("/sys/fs/cgroup"));
        return limit(conf, local, container, Runtime.getRuntime().maxMemory());
    }

    static OptionalLong limit(SparkConf conf, boolean local, OptionalLong container, long heap) {
        if (local && !container.isPresent()) {
            return OptionalLong.empty();
        }
        long overhead = local ? Long.MAX_VALUE : overhead(conf);
        if (container.isPresent()) {
            overhead = Math.min(overhead, container.getAsLong() - heap - others(conf));
        }
        return OptionalLong.of(share(overhead));
    }

    /**
     * Ours of so much: a sixth where there is little, up to a half where the JVM leaves so much.
     * Each task may take a piece beyond it.
     */
    static long share(long overhead) {
        return Math.max(LEAST, Math.max(overhead / 6, (overhead - JVM) / 2));
    }

    /** Memory of executors beside their heap, in Spark's count. */
    static long overhead(SparkConf conf) {
        if (conf.contains(OVERHEAD)) {
            return conf.getSizeAsMb(OVERHEAD) * MIB;
        }
        String factor = conf.get("spark.executor.memoryOverheadFactor", conf.get("spark.kubernetes.memoryOverheadFactor", "0.1"));
        long least = conf.getSizeAsMb("spark.executor.minMemoryOverhead", "384m");
        return Math.max(least, (long) (Double.parseDouble(factor) * conf.getSizeAsMb("spark.executor.memory", "1g"))) * MIB;
    }

    /** What else the container's memory is for. */
    private static long others(SparkConf conf) {
        boolean offHeap = conf.getBoolean("spark.memory.offHeap.enabled", false);
        return (offHeap ? conf.getSizeAsBytes("spark.memory.offHeap.size", "0") : 0)
                + conf.getSizeAsMb("spark.executor.pyspark.memory", "0") * MIB;
    }

    /**
     * Unbounded use of an executor beside its heap: the JVM's own, and per core an arena, the
     * replay buffer, and a reader's window; or the tasks' share, if set by hand.
     */
    static long needed(SparkConf conf, ForebayConf forebay) {
        long tasks = cores(conf) * perTask(forebay);
        OptionalLong shared = forebay.executorMemory();
        // Each task has its least memory, whatever the share.
        return JVM + (shared.isPresent() ? shared.getAsLong() + cores(conf) * LEAST_PER_TASK : tasks);
    }

    private static long perTask(ForebayConf forebay) {
        return forebay.arenaBytes() + forebay.replayBytes() + forebay.windowBytes();
    }

    /**
     * Concurrent tasks of an executor, as far as the configuration tells: a standalone worker's own
     * cores are not in it.
     */
    static int cores(SparkConf conf) {
        Matcher cluster = LOCAL_CLUSTER.matcher(conf.get("spark.master", ""));
        int cores = conf.getInt("spark.executor.cores", cluster.matches() ? Integer.parseInt(cluster.group(1)) : 1);
        return Math.max(1, cores / Math.max(1, conf.getInt("spark.task.cpus", 1)));
    }

    /**
     * Memory of executors beside their heap, their possible use, and a remedy if the two differ;
     * empty in local mode.
     */
    static Optional<String> advice(SparkConf conf, ForebayConf forebay) {
        long have = overhead(conf);
        long need = needed(conf, forebay);
        if (isLocal(conf) || have >= need) {
            return Optional.empty();
        }
        long heap = conf.getSizeAsMb("spark.executor.memory", "1g");
        return Optional.of(String.format(
                Locale.ROOT,
                "an executor may need %d MiB: %d of heap, and beside it %d, of which %d are the JVM's own and the others what tasks on %d cores"
                        + " shuffle through Forebay. It has %d beside its heap, and tasks go on with that, but slower: set %s=%dm",
                heap + (need + others(conf)) / MIB,
                heap,
                (need + others(conf)) / MIB,
                JVM / MIB,
                cores(conf),
                have / MIB,
                OVERHEAD,
                need / MIB));
    }

    /** On the driver, once: says so where executors have less than they may need. */
    static void warn(SparkConf conf, ForebayConf forebay) {
        advice(conf, forebay).ifPresent(LOG::warn);
    }

    /** For people to see in the tab. */
    static String shown(SparkConf conf, ForebayConf forebay) {
        if (isLocal(conf)) {
            return "local mode: tasks run in the driver";
        }
        long have = overhead(conf) / MIB;
        long need = (needed(conf, forebay) + MIB - 1) / MIB;
        String beside = String.format(Locale.ROOT, "%d MiB beside the heap, of which %d cores may need %d", have, cores(conf), need);
        return have < need ? beside + ": set " + need + "m" : beside;
    }

    static boolean isLocal(SparkConf conf) {
        String master = conf.get("spark.master", "");
        return master.equals("local") || master.startsWith("local[");
    }

    /**
     * The lowest memory limit of the control groups that a process is in, version 1 or 2; nothing
     * if there is none.
     */
    static OptionalLong container(Path groups, Path mounted) {
        long lowest = Long.MAX_VALUE;
        try {
            for (String line : Files.readAllLines(groups, StandardCharsets.UTF_8)) {
                String[] fields = line.split(":", 3);
                if (fields.length == 3 && fields[1].isEmpty()) {
                    lowest = Math.min(lowest, lowest(mounted, fields[2], "memory.max"));
                } else if (fields.length == 3 && java.util.Arrays.asList(fields[1].split(",")).contains("memory")) {
                    lowest = Math.min(lowest, lowest(mounted.resolve("memory"), fields[2], "memory.limit_in_bytes"));
                }
            }
        } catch (IOException | RuntimeException e) {
            LOG.debug("no control group is read: {}", e.toString());
        }
        // Version 1 says "none" by a number that no machine has.
        return lowest < 1L << 60 ? OptionalLong.of(lowest) : OptionalLong.empty();
    }

    /**
     * Limits of a group and all groups around it. In a container its own group is mounted, while
     * the path is the host's.
     */
    private static long lowest(Path mounted, String group, String file) {
        long lowest = Long.MAX_VALUE;
        Path path = mounted.resolve(group.replaceFirst("^/+", "")).normalize();
        for (; path != null && path.startsWith(mounted); path = path.getParent()) {
            try {
                List<String> lines = Files.readAllLines(path.resolve(file), StandardCharsets.UTF_8);
                lowest = Math.min(lowest, Long.parseLong(lines.get(0).trim()));
            } catch (IOException | RuntimeException e) {
                // Not there, or "max".
            }
        }
        return lowest;
    }
}

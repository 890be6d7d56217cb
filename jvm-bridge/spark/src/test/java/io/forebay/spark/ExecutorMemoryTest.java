package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalLong;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ExecutorMemoryTest {
    private static final long MIB = 1 << 20;

    @TempDir Path directory;

    private static SparkConf conf(String... settings) {
        SparkConf conf = new SparkConf(false);
        for (int i = 0; i < settings.length; i += 2) {
            conf.set(settings[i], settings[i + 1]);
        }
        return conf;
    }

    private static long limit(SparkConf conf) {
        return ExecutorMemory.limit(conf, false, OptionalLong.empty(), 1 << 30).getAsLong() / MIB;
    }

    @Test
    void shareOfSparksDefaults() {
        assertEquals(64, limit(conf()));
        assertEquals(76, limit(conf("spark.executor.memory", "4g")), "(409 - 256) / 2");
    }

    @Test
    void shareOfWhatIsSet() {
        assertEquals(512 - 128, limit(conf("spark.executor.memoryOverhead", "1g")));
        assertEquals(512 - 128, limit(conf("spark.executor.memoryOverhead", "1024")));
        assertEquals((1638 - 256) / 2, limit(conf("spark.executor.memory", "4g", "spark.executor.memoryOverheadFactor", "0.4")));
        assertEquals(32, limit(conf("spark.executor.memoryOverhead", "10m")));
    }

    @Test
    void containerThatLeavesLessCounts() {
        OptionalLong container = OptionalLong.of(1408 * MIB);
        assertEquals(64 * MIB, ExecutorMemory.limit(conf(), false, container, 1024 * MIB).getAsLong());
        SparkConf more = conf("spark.executor.memoryOverhead", "4g");
        assertEquals(64 * MIB, ExecutorMemory.limit(more, false, container, 1024 * MIB).getAsLong());
        SparkConf offHeap = conf("spark.memory.offHeap.enabled", "true", "spark.memory.offHeap.size", "200m");
        assertEquals(32 * MIB, ExecutorMemory.limit(offHeap, false, container, 1024 * MIB).getAsLong());
        // A driver that runs tasks itself has all that its container leaves, and no bound without
        // one.
        assertTrue(ExecutorMemory.limit(conf(), true, OptionalLong.of(8192 * MIB), 1024 * MIB).getAsLong() > 3000 * MIB);
        assertEquals(OptionalLong.empty(), ExecutorMemory.limit(conf(), true, OptionalLong.empty(), 1024 * MIB));
    }

    private static String advice(String... settings) {
        SparkConf conf = conf(settings).set("spark.forebay.servers", "a:1").setIfMissing("spark.master", "k8s://https://api");
        return ExecutorMemory.advice(conf, new ForebayConf(conf)).orElse("");
    }

    @Test
    void executorsThatMayNeedMoreThanTheyHaveAreToldOfWithWhatToSet() {
        // 32 of arena, 64 of messages and 48 of reads for each core, and the JVM's own 256.
        String two = advice("spark.executor.cores", "2", "spark.executor.memory", "1g");
        assertTrue(two.contains("may need 1568 MiB: 1024 of heap") && two.contains("384 beside its heap"), two);
        assertTrue(two.endsWith("set spark.executor.memoryOverhead=544m"), two);
        assertEquals("", advice("spark.executor.cores", "2", "spark.executor.memoryOverhead", "544m"), "what it says to set is enough");
        assertTrue(advice("spark.executor.cores", "2", "spark.executor.memoryOverhead", "543").endsWith("=544m"));
        assertTrue(advice("spark.master", "local-cluster[3, 2, 1024]").endsWith("=544m"));
        assertTrue(advice("spark.executor.cores", "8", "spark.task.cpus", "4").endsWith("=544m"));
        assertTrue(advice().endsWith("=400m"));
        assertEquals("", advice("spark.executor.cores", "4", "spark.executor.memory", "10g", "spark.executor.memoryOverheadFactor", "0.4"));
    }

    @Test
    void whatIsSetByHandIsWhatExecutorsNeed() {
        assertTrue(advice("spark.executor.cores", "2", "spark.forebay.writeArena", "256m").endsWith("=992m"));
        assertTrue(advice("spark.executor.cores", "2", "spark.reducer.maxSizeInFlight", "148m").endsWith("=744m"));
        assertEquals("", advice("spark.executor.cores", "4", "spark.forebay.executorMemory", "64m"));
        assertTrue(advice("spark.executor.cores", "4", "spark.forebay.executorMemory", "1g").endsWith("=1312m"));
        String beside = advice("spark.executor.cores", "2", "spark.memory.offHeap.enabled", "true", "spark.memory.offHeap.size", "1g");
        assertTrue(beside.contains("may need 2592 MiB") && beside.endsWith("=544m"), beside);
        assertEquals("", advice("spark.master", "local[4]"));
    }

    private Path write(String file, String text) throws Exception {
        Path path = directory.resolve(file);
        Files.createDirectories(path.getParent());
        return Files.write(path, text.getBytes(StandardCharsets.UTF_8));
    }

    @Test
    void limitOfControlGroupsIsTheLowestOfThoseAbove() throws Exception {
        Path two = write("two", "0::/pods/one/main\n");
        write("v2/pods/one/main/memory.max", "max\n");
        write("v2/pods/one/memory.max", "1000\n");
        write("v2/pods/memory.max", "5000\n");
        assertEquals(OptionalLong.of(1000), ExecutorMemory.container(two, directory.resolve("v2")));

        Path one = write("one", "11:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/elsewhere\n");
        write("v1/memory/memory.limit_in_bytes", "2000\n");
        assertEquals(OptionalLong.of(2000), ExecutorMemory.container(one, directory.resolve("v1")));
        write("v1/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assertEquals(OptionalLong.empty(), ExecutorMemory.container(one, directory.resolve("v1")));
        assertEquals(OptionalLong.empty(), ExecutorMemory.container(directory.resolve("absent"), directory));
    }
}

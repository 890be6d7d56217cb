package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.ClientSettings;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ForebayConfTest {
    private static SparkConf conf(String... keysAndValues) {
        SparkConf conf = new SparkConf(false).set("spark.forebay.servers", "a:7400");
        for (int i = 0; i < keysAndValues.length; i += 2) {
            conf.set(keysAndValues[i], keysAndValues[i + 1]);
        }
        return conf;
    }

    private static String refused(String... keysAndValues) {
        SparkConf conf = conf(keysAndValues);
        String message = assertThrows(IllegalArgumentException.class, () -> new ForebayConf(conf)).getMessage();
        boolean unset = keysAndValues[1].isEmpty();
        assertTrue(message.startsWith(unset ? keysAndValues[0] : keysAndValues[0] + "=" + keysAndValues[1] + ": "), message);
        return message;
    }

    @Test
    void onlyTheServersMustBeSet() {
        ForebayConf conf = new ForebayConf(conf());
        assertEquals("disk", conf.durability());
        assertEquals(600_000, conf.leaseMillis());
        assertEquals(32 << 20, conf.arenaBytes());
        assertEquals(48 << 20, conf.windowBytes());
        assertEquals(
                "{\"servers\":[\"a:7400\"],\"connect_timeout_ms\":3000,\"call_timeout_ms\":30000,\"retry_deadline_ms\":120000,"
                        + "\"replay_buffer_bytes\":67108864,\"fetch_window_bytes\":50331648,\"fetch_streams\":8"
                        + ",\"names\":{\"servers\":\"spark.forebay.servers\",\"retry_deadline\":\"spark.forebay.retryDeadline\",\"replay_buffer\":\"spark.forebay.replayBuffer\"}}",
                conf.clientSettings().toString());
    }

    private static ClientSettings proven(String... keysAndValues) {
        ClientSettings settings = new ClientSettings(Arrays.asList("a:7400"));
        new ForebayConf(conf(keysAndValues)).prove(settings);
        return settings;
    }

    @Test
    void theDriverProvesItselfAsItIsTold() {
        assertEquals("{\"servers\":[\"a:7400\"]}", proven().toString());
        String names = ",\"names\":{\"auth_file\":\"spark.forebay.auth.file\"}}";
        assertEquals(
                "{\"servers\":[\"a:7400\"],\"auth\":\"secret\",\"auth_file\":\"/a\"" + names,
                proven("spark.forebay.auth", "secret", "spark.forebay.auth.file", "/a").toString());
        assertEquals(
                "{\"servers\":[\"a:7400\"],\"auth\":\"kubernetes\",\"auth_file\":\"/var/run/secrets/forebay/token\"" + names,
                proven("spark.forebay.auth", "kubernetes").toString());
        // Spark's secret is for the native side alone.
        String[] spark = {"spark.forebay.auth", "spark", "spark.authenticate", "true", "spark.authenticate.secret", "planted-0001"};
        assertEquals("{\"servers\":[\"a:7400\"],\"auth\":\"secret\"" + names, proven(spark).toString());
        assertFalse(new ForebayConf(conf(spark)).shown().toString().contains("planted"));
    }

    @Test
    void aProofThatCannotBeIsRefusedWithTheRemedy() {
        assertTrue(refused("spark.forebay.auth", "everybody").contains("none of open, secret, spark, kubernetes"));
        assertTrue(refused("spark.forebay.auth", "secret").contains("spark.forebay.auth.file is not set"));
        assertTrue(refused("spark.forebay.auth.file", "/a").contains("spark.forebay.auth is open"));
        assertTrue(refused("spark.forebay.auth.file", "/a", "spark.forebay.auth", "spark").contains("spark.forebay.auth is spark"));
        assertTrue(refused("spark.forebay.auth", "spark").contains("spark.authenticate is not true"));
        assertTrue(refused("spark.forebay.auth", "spark", "spark.authenticate", "true").contains("cannot know a secret"));
    }

    @Test
    void serversAreAList() {
        ForebayConf conf = new ForebayConf(conf("spark.forebay.servers", " a:1, dns://pool.example:7400,[::1]:2 ,"));
        assertEquals(Arrays.asList("a:1", "dns://pool.example:7400", "[::1]:2"), conf.servers());
    }

    @Test
    void missingAndMalformedServersAreRefusedWithTheRemedy() {
        assertTrue(refused("spark.forebay.servers", "").contains("host:port"));
        assertTrue(refused("spark.forebay.servers", "a:1,b").contains("\"b\" is not an address"));
        refused("spark.forebay.servers", "http://a:1");
        refused("spark.forebay.servers", "a:1/x");
        SparkConf none = new SparkConf(false);
        assertTrue(assertThrows(IllegalArgumentException.class, () -> new ForebayConf(none)).getMessage().contains("spark.forebay.servers"));
    }

    @Test
    void everyKeyReachesItsSetting() {
        ForebayConf conf =
                new ForebayConf(
                        conf(
                                "spark.forebay.durability", "fsync",
                                "spark.forebay.lease", "20s",
                                "spark.forebay.writeArena", "2m",
                                "spark.forebay.replayBuffer", "0",
                                "spark.reducer.maxSizeInFlight", "1m",
                                "spark.forebay.fetchStreams", "3",
                                "spark.forebay.retryDeadline", "1min",
                                "spark.forebay.connectTimeout", "1s",
                                "spark.forebay.callTimeout", "2s",
                                "spark.forebay.nativeDir", "/opt/native",
                                "spark.forebay.writeback.policy", "eager",
                                "spark.forebay.remote", "s3://bucket/prefix",
                                "spark.forebay.fallback", "true"));
        assertTrue(conf.fallback());
        assertEquals("fsync", conf.durability());
        assertEquals(20_000, conf.leaseMillis());
        assertEquals(2 << 20, conf.arenaBytes());
        assertEquals("/opt/native", conf.nativeDir().orElse(null));
        assertEquals(
                "{\"servers\":[\"a:7400\"],\"connect_timeout_ms\":1000,\"call_timeout_ms\":2000,\"retry_deadline_ms\":60000,"
                        + "\"replay_buffer_bytes\":0,\"fetch_window_bytes\":1048576,\"fetch_streams\":3,\"write_back\":\"eager\""
                        + ",\"remote\":\"s3://bucket/prefix\",\"names\":{\"servers\":\"spark.forebay.servers\",\"retry_deadline\":\"spark.forebay.retryDeadline\",\"replay_buffer\":\"spark.forebay.replayBuffer\",\"remote\":\"spark.forebay.remote\"}}",
                conf.clientSettings().toString());
    }

    @Test
    void fetchWindowIsSparksOwnWithinBounds() {
        String[][] windows = {{"7m", "7340032"}, {"7", "7340032"}, {"512k", "524288"}, {"0", "65536"}, {"1k", "65536"}, {"64g", "1073741824"}};
        for (String[] window : windows) {
            assertEquals(Long.parseLong(window[1]), new ForebayConf(conf("spark.reducer.maxSizeInFlight", window[0])).windowBytes(), window[0]);
        }
    }

    @Test
    void encryptionIsSparksOwnKey() {
        assertTrue(new ForebayConf(conf("spark.io.encryption.enabled", "true")).encrypts());
        assertTrue(!new ForebayConf(conf()).encrypts());
    }

    @Test
    void whatTheDriverSetItselfIsTakenOnExecutors() {
        new ForebayConf(conf("spark.forebay.status", "fallback to Spark's own shuffle: none"));
    }

    @Test
    void misspeltKeyIsRefusedWithTheNearestName() {
        assertTrue(refused("spark.forebay.durabilty", "disk").endsWith("did you mean spark.forebay.durability?"));
        assertTrue(refused("spark.forebay.server", "a:1").endsWith("did you mean spark.forebay.servers?"));
    }

    @Test
    void whatMayBeASecretIsNotShown() {
        for (String[] entry : new String[][] {{"token", "0123456789abcdef"}, {"s3.accessKey", "0123456789abcdef"}, {"remot", "s3://0123456789abcdef@b/c"}}) {
            SparkConf conf = conf("spark.forebay." + entry[0], entry[1]);
            String message = assertThrows(IllegalArgumentException.class, () -> new ForebayConf(conf)).getMessage();
            assertTrue(message.startsWith("spark.forebay." + entry[0] + "=(not shown): ") && !message.contains("0123456789"), message);
        }
        SparkConf conf = conf("spark.forebay.token.File", "/x");
        String message = assertThrows(IllegalArgumentException.class, () -> new ForebayConf(conf)).getMessage();
        assertTrue(message.endsWith("did you mean spark.forebay.token.file?"), message);
    }

    @Test
    void keyWithAMisspeltPrefixIsRefusedWithTheNearestName() {
        for (String prefix : new String[] {"spark.forbay.", "spark.Forebay.", "spark.forebays.", "spark.fourbay."}) {
            String message = refused(prefix + "durability", "mirror");
            assertTrue(message.endsWith("begin with spark.forebay.: did you mean spark.forebay.durability?"), message);
        }
        new ForebayConf(conf("spark.foreign.durability", "x", "spark.forecast.x", "y", "spark.forebay", "z", "forebay.x", "1"));
        new ForebayConf(conf("spark.forbay.durability", "mirror"), false);
    }

    @Test
    void keyOfANewerDriverEndsNoExecutor() {
        SparkConf conf = conf("spark.forebay.ofTheYearAfterNext", "x", "spark.forebay.durability", "fsync");
        assertEquals("fsync", new ForebayConf(conf, false).durability());
        assertThrows(IllegalArgumentException.class, () -> new ForebayConf(conf, true));
    }

    @Test
    void valueThatAnExecutorsOlderJarCannotReadFailsItsTasksWithTheReason() {
        SparkConf conf = conf("spark.forebay.durability", "thrice");
        Settings executors = Settings.read(conf, false);
        String message = assertThrows(IllegalStateException.class, executors::get).getMessage();
        assertTrue(message.contains("spark.forebay.durability=thrice") && message.contains("use one jar"), message);
        assertThrows(IllegalArgumentException.class, () -> Settings.read(conf, true));
        assertEquals("disk", Settings.read(conf(), false).get().durability());
    }

    @Test
    void valuesThatCannotBeAreRefused() {
        assertTrue(refused("spark.forebay.durability", "paper").contains("memory, disk, fsync, mirror or object"));
        assertTrue(refused("spark.forebay.lease", "soon").contains("10min"));
        refused("spark.forebay.lease", "10ms");
        assertTrue(refused("spark.forebay.writeback.policy", "sometimes").contains("lazy, eager or off"));
        refused("spark.forebay.writeArena", "1k");
        refused("spark.forebay.writeArena", "2g");
        refused("spark.forebay.writeArena", "much");
        refused("spark.forebay.fetchStreams", "0");
        refused("spark.forebay.fetchStreams", "many");
        refused("spark.forebay.fallback", "yes");
        refused("spark.forebay.retryDeadline", "0");
        assertTrue(refused("spark.forebay.retryDeadline", "9999999999d").endsWith("choose at most 365d"));
        assertTrue(refused("spark.forebay.lease", "-1s").endsWith("choose at least 1000ms"));
        assertTrue(refused("spark.forebay.replayBuffer", "99999999999999t").contains("64m"));
        assertTrue(refused("spark.forebay.executorMemory", "8000p").endsWith("choose at most 1024g"));
        refused("spark.forebay.executorMemory", "1.5g");
        refused("spark.forebay.executorMemory", "10k");
        refused("spark.forebay.fetchStreams", "99999999999");
        assertTrue(refused("spark.forebay.servers", "a:0").contains("1 to 65535"));
        assertTrue(refused("spark.forebay.servers", "a:1,[::1]:65536").contains("1 to 65535"));
    }

    @Test
    void mirrorNeedsTwoServers() {
        assertTrue(refused("spark.forebay.durability", "mirror").contains("needs two servers"));
        for (String servers : new String[] {"a:1,b:1", "dns://pool:7400"}) {
            ForebayConf conf = new ForebayConf(conf("spark.forebay.durability", "mirror", "spark.forebay.servers", servers));
            assertEquals("mirror", conf.durability());
        }
    }

    @Test
    void tokenIsReadFromItsFile(@TempDir Path directory) throws Exception {
        Path file = directory.resolve("token");
        Files.write(file, "0123456789abcdef0123\n".getBytes(StandardCharsets.UTF_8));
        assertEquals("0123456789abcdef0123", new ForebayConf(conf("spark.forebay.token.file", file.toString())).token().orElse(null));

        Files.write(file, "short".getBytes(StandardCharsets.UTF_8));
        ForebayConf tooShort = new ForebayConf(conf("spark.forebay.token.file", file.toString()));
        String message = assertThrows(IllegalArgumentException.class, tooShort::token).getMessage();
        assertTrue(message.contains("16 to 512") && !message.contains("short\n"), message);

        ForebayConf missing = new ForebayConf(conf("spark.forebay.token.file", directory.resolve("none").toString()));
        assertTrue(assertThrows(IllegalArgumentException.class, missing::token).getMessage().contains("spark.forebay.token.file"));
    }

    @Test
    void thereAreAtMostTwentyFiveKeys() {
        assertTrue(ForebayConf.Key.values().length <= 25);
    }
}

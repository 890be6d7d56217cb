package io.forebay.spark;

import io.forebay.core.ClientSettings;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.regex.Pattern;
import org.apache.spark.SparkConf;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Tuple2;

/**
 * Settings of a person: every key under {@code spark.forebay.}, with default and meaning, in one
 * table ({@link Key}). The page jvm-bridge/KEYS.md is made from the table, and a test compares the
 * two.
 *
 * <p>Read on the driver and again on each executor, from the same SparkConf. A key that is not in
 * the table is refused, because a misspelt durability would otherwise be a silent default.
 */
public final class ForebayConf {
    private static final Logger LOG = LoggerFactory.getLogger(ForebayConf.class);

    static final String PREFIX = "spark.forebay.";
    private static final String SPARK = "spark.";

    /**
     * Not for people to set: says in the UI and in the event log that, and why, an application is
     * on Spark's own shuffle.
     */
    static final String STATUS = PREFIX + "status";

    /** Where deployments mount the token of the driver's service account for the servers. */
    private static final String PROJECTED = "/var/run/secrets/forebay/token";

    static final String ENCRYPTION = "spark.io.encryption.enabled";
    private static final String WINDOW = "spark.reducer.maxSizeInFlight";
    private static final long SMALLEST_WINDOW = 64 << 10;
    private static final long LARGEST_WINDOW = 1L << 30;

    /**
     * Entries hold the offset of a record in 32 bits, and nobody has so much memory for each task.
     */
    private static final long LARGEST_ARENA = 1L << 30;

    private static final long SMALLEST_ARENA = 1L << 20;

    /** More is a slip of the pen, and would overflow where times and sizes are added up. */
    private static final long LARGEST_SIZE = 1L << 40;

    private static final long LONGEST_MILLIS = 365L * 24 * 3600 * 1000;

    /** Memory with which what each stream may hold does not matter. */
    private static final long AMPLE = 512 << 20;
    private static final Pattern SERVER = Pattern.compile("(dns://)?(\\[[0-9a-fA-F:.]+]|[^\\s,/@:\\[\\]]+):[0-9]{1,5}");
    private static final Pattern SECRET = Pattern.compile("(?i)secret|password|token|key");
    private static final Pattern TOKEN = Pattern.compile("[\\x21-\\x7e]{16,512}");

    /** The table of all keys. */
    enum Key {
        SERVERS("servers", null, "The servers: `host:port,…` or `dns://name:port`. The one key that must be set."),
        DURABILITY(
                "durability",
                "disk",
                "What a map output survives once its task has succeeded. `memory`: loss of the executor. `disk`: also a crash or a "
                        + "restart of the server process. `fsync`: also a power cut. `mirror`: `disk` on two servers, so also "
                        + "either of them for good; twice the network and disk. `object`: also all servers and their disks, for servers that have an "
                        + "object store; a task then waits until it is there. Raise it if servers share power or go often, and maps are dear."),
        LEASE(
                "lease",
                "10min",
                "How long the servers keep the data of an application whose driver is gone, at least a second. Raise it if drivers may be cut "
                        + "off from the servers for longer."),
        TOKEN_FILE(
                "token.file",
                "none: 256 random bits",
                "File on the driver with the secret that opens this application's data on the servers. Executors get it with "
                        + "their tasks. Set it if something else is to read or delete the data; what the servers call the application is in the tab and in the "
                        + "driver's log. It may be the same for several applications, and for one that is started again."),
        AUTH(
                "auth",
                "open",
                "How the driver proves to the servers that it belongs to their pool, as their `auth` asks for. `open`: not at all. `secret`: by a "
                        + "line of their `pool-secret-file`, in `spark.forebay.auth.file`. `spark`: by `spark.authenticate.secret` (or its file), where "
                        + "that is such a line. `kubernetes`: by the token of its service account in `spark.forebay.auth.file`. The secret itself is "
                        + "not sent, and executors never have it: the servers make a token for the application, which tasks get with their work and "
                        + "which is renewed while the application runs."),
        AUTH_FILE(
                "auth.file",
                "`kubernetes`: `/var/run/secrets/forebay/token`",
                "File on the driver for `spark.forebay.auth=secret` (its first line is the pool's secret) or `kubernetes` (a projected "
                        + "serviceAccountToken for the servers' `audience`). Read again for every renewal, so it may change while the application runs."),
        TLS_CA(
                "tls.ca",
                "none: everything goes in the clear",
                "File on the driver (PEM) with the authority that signed the servers' `tls-cert`: speaks TLS with them, and trusts no other "
                        + "authority. Executors get it with their tasks and need no file. A server is known by the host that `servers` names, also "
                        + "where it is reached by another address. Set it if the servers have `tls-cert`."),
        TLS_SERVER_NAME(
                "tls.serverName",
                "the hosts of `servers`",
                "Name that the certificate of every server must have. Set it if `servers` has addresses, or names that are not in the certificates."),
        TLS_CERT(
                "tls.cert",
                "none: no certificate is shown",
                "File on the driver (PEM) with the application's own certificate, for servers that ask for one (`tls-client-ca`). Executors get "
                        + "it with their tasks, and its key. Needs `tls.key`."),
        TLS_KEY("tls.key", "none: goes with `tls.cert`", "File on the driver (PEM, not encrypted) with the private key of `tls.cert`."),
        EXECUTOR_MEMORY(
                "executorMemory",
                "what `memoryOverhead` leaves",
                "Native memory that the tasks of an executor share for what they write and read; with less than they could use they are "
                        + "slower. By default a sixth of `spark.executor.memoryOverhead`, or half of what it has over 256 MiB, if that is more; "
                        + "of what the container leaves, if that is less. Set it if the overhead is for something else, too."),
        WRITE_ARENA(
                "writeArena",
                "32m",
                "Native memory into which a map task copies its rows before they are sorted and pushed, `1m` to `1g`. Raise it for "
                        + "shuffles with many thousands of partitions: blocks get longer. Tasks that share too little push earlier; one that is set "
                        + "is filled whatever they share."),
        REPLAY_BUFFER(
                "replayBuffer",
                "64m",
                "Native memory in which a map task keeps what it has pushed, so that it can push it again to another server. A larger "
                        + "output fails with its server, and the task is run again. Raise it if map outputs are larger and tasks dear. Tasks that "
                        + "share too little keep less; one that is set is kept whatever they share."),
        ZONE(
                "zone",
                "`FOREBAY_ZONE` of the environment",
                "Failure domain that the application runs in, by the name that servers have for theirs (`zone`). Shuffles go to servers of the "
                        + "same first, and to others where there are too few. Set it, or `FOREBAY_ZONE` on the driver and executors, where traffic between zones costs."),
        FETCH_STREAMS(
                "fetchStreams", "8", "Servers that a reduce task reads from at a time. Raise it if reduce tasks wait and no server is busy."),
        RETRY_DEADLINE(
                "retryDeadline",
                "2min",
                "How long a task waits for servers that restart or cannot be reached. Then a reduce task reports the fetch failure and a map "
                        + "task fails, and nobody in that executor waits for that server again until it answers. Servers that answer and are "
                        + "busy, full or draining are waited for ten times as long, and never reported as lost. Raise it if servers take longer "
                        + "to come back than maps to run again."),
        CONNECT_TIMEOUT("connectTimeout", "3s", "How long one try to connect may take. Raise it on networks that answer later."),
        CALL_TIMEOUT(
                "callTimeout",
                "30s",
                "How long a server may be silent before the call is tried again. Raise it if the servers' disks stall for longer."),
        NATIVE_DIR(
                "nativeDir",
                "the JVM's `java.io.tmpdir`",
                "Directory into which the native library is unpacked. If it cannot be used, `java.io.tmpdir` and Spark's own local directories "
                        + "are tried. Set it if all of them are mounted `noexec`."),
        WRITEBACK_POLICY(
                "writeback.policy",
                "as the servers are set",
                "When servers that have an object store copy the data there: `lazy` (after a delay, when a disk is nearly full, or when a "
                        + "server ends), `eager` (at once) or `off` (never)."),
        REMOTE(
                "remote",
                "none: the store is the servers' alone",
                "URL of the object store that the servers write back to, as their `--remote` has it. Where no server is left that could serve "
                        + "what was written back, reduce tasks read it there themselves, instead of waiting for a server until `retryDeadline`. "
                        + "Executors then need the right to read it, where the cloud's own tools find it: `AWS_…`, `AZURE_…` or `GOOGLE_…` in their "
                        + "environment, or the identity of their machine or service account. Set it if the pool may be scaled in to nothing, or "
                        + "be lost, while applications still read."),
        FALLBACK(
                "fallback",
                "false",
                "`true`: if, when the application starts, no server takes it within 30 s (or within `retryDeadline`, if that is less) or the "
                        + "native library cannot be loaded, the whole application uses Spark's own shuffle, and says so. `false`: its first "
                        + "shuffle fails then, with the reason. Set it for jobs that had rather lose the protection than wait.");

        final String key;
        final String standard;
        final String meaning;

        Key(String name, String standard, String meaning) {
            this.key = PREFIX + name;
            this.standard = standard;
            this.meaning = meaning;
        }
    }

    private final SparkConf conf;
    private final List<String> servers;
    private final String durability;
    private final Optional<String> writeBack;
    private final long leaseMillis;
    private final long arenaBytes;
    private final long replayBytes;
    private final long executorMemory;
    private final long windowBytes;
    private final long streams;
    private final long retryMillis;
    private final long connectMillis;
    private final long callMillis;
    private final boolean fallback;
    private final boolean encrypts;
    private final String auth;

    /** Every key with its value or default, for the UI. Without secrets. */
    Map<String, String> shown() {
        Map<String, String> shown = new LinkedHashMap<>();
        for (Key key : Key.values()) {
            shown.put(key.key, conf.get(key.key, key.standard == null ? "" : key.standard));
        }
        // A key of Spark, but what decides how much memory the tasks have.
        shown.put(ExecutorMemory.OVERHEAD, ExecutorMemory.shown(conf, this));
        return shown;
    }

    /** As on the driver. */
    ForebayConf(SparkConf conf) {
        this(conf, true);
    }

    /**
     * Reads and checks all keys; an {@link IllegalArgumentException} names key, value and remedy.
     *
     * @param isDriver whether a key that is not in the table is refused. It was a driver's, where
     *     this is an executor: of a jar that is newer than the one here. An executor that ended for
     *     it would be started again and again.
     */
    ForebayConf(SparkConf conf, boolean isDriver) {
        this.conf = conf;
        checkNames(isDriver);
        servers = readServers();
        durability = readDurability();
        writeBack = readWriteBack();
        fallback = flag(Key.FALLBACK);
        encrypts = conf.getBoolean(ENCRYPTION, false);
        auth = readAuth();
        if (isDriver && auth.equals("spark")) {
            sparkSecret();
        }
        leaseMillis = duration(Key.LEASE, 1000);
        long arena = size(Key.WRITE_ARENA, SMALLEST_ARENA);
        if (arena > LARGEST_ARENA) {
            throw bad(Key.WRITE_ARENA, "it is larger than 1g: choose 1m to 1g");
        }
        // A whole number of entries and of pages.
        arenaBytes = arena + 4095 & ~4095L;
        replayBytes = size(Key.REPLAY_BUFFER, 0);
        executorMemory = text(Key.EXECUTOR_MEMORY).isPresent() ? size(Key.EXECUTOR_MEMORY, 1 << 20) : 0;
        windowBytes = readWindow();
        streams = readStreams();
        retryMillis = duration(Key.RETRY_DEADLINE, 1);
        connectMillis = duration(Key.CONNECT_TIMEOUT, 1);
        callMillis = duration(Key.CALL_TIMEOUT, 1);
    }

    List<String> servers() {
        return servers;
    }

    String durability() {
        return durability;
    }

    long leaseMillis() {
        return leaseMillis;
    }

    long arenaBytes() {
        return arenaBytes;
    }

    long windowBytes() {
        return windowBytes;
    }

    long replayBytes() {
        return replayBytes;
    }

    /** Memory shared by the tasks of an executor, if set by hand. */
    OptionalLong executorMemory() {
        return text(Key.EXECUTOR_MEMORY).isPresent() ? OptionalLong.of(executorMemory) : OptionalLong.empty();
    }

    long retryMillis() {
        return retryMillis;
    }

    boolean fallback() {
        return fallback;
    }

    /** Whether executors read the object store themselves where no server is left. */
    boolean readsStore() {
        return text(Key.REMOTE).isPresent();
    }

    /** Whether blocks are encrypted. */
    boolean encrypts() {
        return encrypts;
    }

    /**
     * Bounds the memory shared by the tasks of this JVM. Bounds per task set by hand stay.
     *
     * @param driver tasks run there in local mode only
     */
    void boundMemory(ClientSettings settings, boolean driver) {
        boolean local = ExecutorMemory.isLocal(conf);
        if (driver && !local) {
            return;
        }
        OptionalLong limit =
                text(Key.EXECUTOR_MEMORY).isPresent()
                        ? OptionalLong.of(executorMemory)
                        : ExecutorMemory.ofThisJvm(conf, local);
        if (!limit.isPresent()) {
            return;
        }
        long bytes = limit.getAsLong();
        List<String> apart = new ArrayList<>();
        if (text(Key.WRITE_ARENA).isPresent()) {
            apart.add("arenas");
        }
        if (text(Key.REPLAY_BUFFER).isPresent()) {
            apart.add("messages");
        }
        if (conf.contains(WINDOW)) {
            apart.add("reads");
        }
        settings.name("memory", Key.EXECUTOR_MEMORY.key).set("memory_bytes", bytes).set("memory_apart", String.join(",", apart));
        if (bytes < AMPLE) {
            settings.set("stream_window_bytes", 512 << 10);
        }
        long core = bytes / Math.max(Runtime.getRuntime().availableProcessors(), conf.getInt("spark.executor.cores", 1));
        if (core < 8 << 20) {
            settings.set("batch_bytes", core < 4 << 20 ? 128 << 10 : 256 << 10);
        }
    }

    Optional<String> nativeDir() {
        return text(Key.NATIVE_DIR);
    }

    /** Settings of the native client, the same on the driver and on executors. */
    ClientSettings clientSettings() {
        ClientSettings settings = new ClientSettings(servers)
                .set("connect_timeout_ms", connectMillis)
                .set("call_timeout_ms", callMillis)
                .set("retry_deadline_ms", retryMillis)
                .set("replay_buffer_bytes", replayBytes)
                .set("fetch_window_bytes", windowBytes)
                .set("fetch_streams", streams)
                .name("servers", Key.SERVERS.key)
                .name("retry_deadline", Key.RETRY_DEADLINE.key)
                .name("replay_buffer", Key.REPLAY_BUFFER.key);
        named(System.getenv("FOREBAY_NODE")).ifPresent(node -> settings.set("node", node));
        Optional<String> zone = text(Key.ZONE).isPresent() ? text(Key.ZONE) : named(System.getenv("FOREBAY_ZONE"));
        zone.ifPresent(name -> settings.set("zone", name));
        writeBack.ifPresent(policy -> settings.set("write_back", policy));
        text(Key.REMOTE).ifPresent(url -> settings.set("remote", url).name("remote", Key.REMOTE.key));
        return settings;
    }

    /**
     * Tells the native client how this driver proves that it belongs to the pool. Not for
     * executors: they have no secret.
     */
    void prove(ClientSettings settings) {
        if (auth.equals("open")) {
            return;
        }
        settings.set("auth", auth.equals("kubernetes") ? "kubernetes" : "secret").name("auth_file", Key.AUTH_FILE.key);
        if (auth.equals("spark")) {
            settings.poolSecret(sparkSecret());
        } else {
            settings.set("auth_file", text(Key.AUTH_FILE).orElse(PROJECTED));
        }
    }

    /** Spark's own secret, as a person has set it: one that Spark makes up no pool knows. */
    private String sparkSecret() {
        if (!conf.getBoolean("spark.authenticate", false)) {
            throw bad(Key.AUTH, "spark.authenticate is not true: set it, with spark.authenticate.secret, or choose another proof");
        }
        String file = conf.get("spark.authenticate.secret.driver.file", conf.get("spark.authenticate.secret.file", ""));
        String secret = conf.get("spark.authenticate.secret", "");
        if (secret.isEmpty() && !file.isEmpty()) {
            try {
                secret = new String(Files.readAllBytes(Paths.get(file)), StandardCharsets.UTF_8).trim();
            } catch (IOException e) {
                throw bad(Key.AUTH, "the file of spark.authenticate.secret cannot be read on the driver (" + e + ")");
            }
        }
        if (secret.isEmpty()) {
            throw bad(
                    Key.AUTH,
                    "neither spark.authenticate.secret nor spark.authenticate.secret.file is set, and the servers cannot know a secret that "
                            + "Spark makes up: set one of them to a line of the servers' pool-secret-file");
        }
        return secret;
    }

    private String readAuth() {
        String auth = text(Key.AUTH).orElse(Key.AUTH.standard);
        if (!Arrays.asList("open", "secret", "spark", "kubernetes").contains(auth)) {
            throw bad(Key.AUTH, "it is none of open, secret, spark, kubernetes");
        }
        boolean file = text(Key.AUTH_FILE).isPresent();
        if (auth.equals("secret") && !file) {
            throw bad(Key.AUTH, Key.AUTH_FILE.key + " is not set: name a file on the driver with a line of the servers' pool-secret-file");
        }
        if (file && (auth.equals("open") || auth.equals("spark"))) {
            throw bad(Key.AUTH_FILE, "nothing reads it while " + Key.AUTH.key + " is " + auth + ": set that to secret or kubernetes, or leave it out");
        }
        return auth;
    }

    /** A variable that Kubernetes finds nothing for is empty. */
    private static Optional<String> named(String variable) {
        return Optional.ofNullable(variable).filter(name -> !name.isEmpty());
    }

    /**
     * The secret in the file named by {@link Key#TOKEN_FILE}; none without the key. Read on the
     * driver only.
     */
    Optional<String> token() {
        return text(Key.TOKEN_FILE).map(this::readToken);
    }

    private String readToken(String file) {
        String token;
        try {
            token = new String(Files.readAllBytes(Paths.get(file)), StandardCharsets.UTF_8).trim();
        } catch (IOException e) {
            throw bad(Key.TOKEN_FILE, "it cannot be read on the driver (" + e + ")");
        }
        if (!TOKEN.matcher(token).matches()) {
            throw bad(Key.TOKEN_FILE, "it must hold one line of 16 to 512 printable ASCII characters, for example: openssl rand -hex 32");
        }
        return token;
    }

    // === reading ===

    private void checkNames(boolean refuse) {
        for (Tuple2<String, String> entry : conf.getAll()) {
            String name = entry._1();
            if (refuse && isMisspeltPrefix(name)) {
                String right = PREFIX + name.substring(name.indexOf('.', SPARK.length()) + 1);
                throw new IllegalArgumentException(
                        name + "=" + shown(name, entry._2()) + ": Forebay's keys begin with " + PREFIX + ": did you mean " + nearest(right).key + "?");
            }
            if (!name.startsWith(PREFIX) || name.equals(STATUS) || nearest(name).key.equals(name)) {
                continue;
            }
            if (refuse) {
                throw new IllegalArgumentException(
                        name + "=" + shown(name, entry._2()) + ": this is not a key of Forebay: did you mean " + nearest(name).key + "?");
            }
            LOG.warn("{} is not a key of the Forebay on this executor, whose jar is older than the driver's, and has no effect here: use one jar", name);
        }
    }

    /** The value of an unknown key may be a secret. */
    private static String shown(String name, String value) {
        return SECRET.matcher(name).find() || value.indexOf('@') >= 0 ? "(not shown)" : value;
    }

    /** Such a key would have no effect, and nobody would say so. */
    private static boolean isMisspeltPrefix(String name) {
        int end = name.indexOf('.', SPARK.length());
        if (!name.startsWith(SPARK) || end < 0 || name.startsWith(PREFIX)) {
            return false;
        }
        String word = name.substring(SPARK.length(), end).toLowerCase(Locale.ROOT);
        return NearestName.distance(SPARK + word + ".", PREFIX) <= 2;
    }

    private static Key nearest(String name) {
        Key nearest = null;
        int distance = Integer.MAX_VALUE;
        for (Key key : Key.values()) {
            int d = NearestName.distance(name, key.key);
            if (d < distance) {
                distance = d;
                nearest = key;
            }
        }
        return nearest;
    }

    private List<String> readServers() {
        List<String> list = new ArrayList<>();
        for (String part : text(Key.SERVERS).orElse("").split(",")) {
            String server = part.trim();
            if (server.isEmpty()) {
                continue;
            }
            if (!SERVER.matcher(server).matches()) {
                throw bad(Key.SERVERS, "\"" + server + "\" is not an address: write host:port or dns://name:port");
            }
            int port = Integer.parseInt(server.substring(server.lastIndexOf(':') + 1));
            if (port < 1 || port > 65_535) {
                throw bad(Key.SERVERS, "\"" + server + "\" has no port from 1 to 65535: write host:port or dns://name:port, as the servers listen");
            }
            list.add(server);
        }
        if (list.isEmpty()) {
            throw new IllegalArgumentException(
                    Key.SERVERS.key + " is not set: name the Forebay servers, as host:port,host:port or dns://name:port");
        }
        return list;
    }

    private String readDurability() {
        String level = text(Key.DURABILITY).orElse(Key.DURABILITY.standard);
        switch (level) {
            case "memory":
            case "disk":
            case "fsync":
            case "object":
                return level;
            case "mirror":
                if (servers.size() < 2 && !servers.get(0).startsWith("dns://")) {
                    throw bad(Key.DURABILITY, "it needs two servers: name another in " + Key.SERVERS.key + ", or choose memory, disk or fsync");
                }
                return level;
            default:
                throw bad(Key.DURABILITY, "choose memory, disk, fsync, mirror or object");
        }
    }

    private Optional<String> readWriteBack() {
        Optional<String> policy = text(Key.WRITEBACK_POLICY);
        if (policy.isPresent() && !Arrays.asList("lazy", "eager", "off").contains(policy.get())) {
            throw bad(Key.WRITEBACK_POLICY, "choose lazy, eager or off");
        }
        return policy;
    }

    /**
     * Spark's own key, which counts MiB where no unit is given; one reader of a giant window would
     * be an executor out of memory.
     */
    private long readWindow() {
        long mib = conf.getSizeAsMb(WINDOW, "48m");
        long bytes = mib == 0 ? conf.getSizeAsBytes(WINDOW, "48m") : mib << 20;
        return Math.min(LARGEST_WINDOW, Math.max(SMALLEST_WINDOW, bytes));
    }

    private long readStreams() {
        String value = text(Key.FETCH_STREAMS).orElse(Key.FETCH_STREAMS.standard);
        try {
            int streams = Integer.parseInt(value);
            if (streams >= 1) {
                return streams;
            }
        } catch (NumberFormatException e) {
            // Refused below, as a number that is too small is.
        }
        throw bad(Key.FETCH_STREAMS, "write a whole number, at least 1");
    }

    private boolean flag(Key key) {
        String value = text(key).orElse(key.standard);
        if (!value.equals("true") && !value.equals("false")) {
            throw bad(key, "write true or false");
        }
        return value.equals("true");
    }

    private Optional<String> text(Key key) {
        String value = conf.get(key.key, "").trim();
        return value.isEmpty() ? Optional.empty() : Optional.of(value);
    }

    private long size(Key key, long least) {
        long bytes;
        try {
            bytes = conf.getSizeAsBytes(key.key, key.standard);
        } catch (IllegalArgumentException e) {
            // No size, or too large for 64 bits.
            throw bad(key, "write a size such as " + (key == Key.EXECUTOR_MEMORY ? "256m" : key.standard));
        }
        if (bytes < least) {
            throw bad(key, "choose at least " + least + " bytes");
        }
        if (bytes > LARGEST_SIZE) {
            throw bad(key, "choose at most 1024g");
        }
        return bytes;
    }

    private long duration(Key key, long least) {
        long millis;
        try {
            millis = conf.getTimeAsMs(key.key, key.standard);
        } catch (IllegalArgumentException e) {
            throw bad(key, "write a time such as " + key.standard);
        }
        if (millis < least) {
            throw bad(key, "choose at least " + least + "ms");
        }
        if (millis > LONGEST_MILLIS) {
            throw bad(key, "choose at most 365d");
        }
        return millis;
    }

    private IllegalArgumentException bad(Key key, String remedy) {
        return new IllegalArgumentException(key.key + "=" + conf.get(key.key, "") + ": " + remedy);
    }
}

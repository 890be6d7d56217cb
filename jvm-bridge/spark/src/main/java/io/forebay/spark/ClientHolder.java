package io.forebay.spark;

import io.forebay.core.ClientSettings;
import io.forebay.core.ForebayClient;
import io.forebay.core.NativeLibrary;
import io.forebay.core.NativeLog;
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.SparkEnv;
import scala.Option;

/**
 * The client of this JVM, made on demand: a driver without shuffles loads no library.
 */
final class ClientHolder {
    private final ForebayConf conf;
    private String[] tls;
    private ForebayClient client;
    private boolean closed;

    ClientHolder(ForebayConf conf) {
        this.conf = conf;
    }

    /**
     * Says how to speak TLS, as {@link TlsFiles} has it; null for in the clear. On an executor the
     * first task knows.
     */
    synchronized void speak(String[] tls) {
        if (client == null) {
            this.tls = tls;
        }
    }

    /** What {@link #speak} was told. */
    synchronized String[] tls() {
        return tls;
    }

    synchronized ForebayClient get() {
        if (closed) {
            throw new IllegalStateException("Forebay is stopped in this JVM: its SparkContext or executor is shutting down");
        }
        if (client == null) {
            client = open(conf.clientSettings());
        }
        return client;
    }

    /**
     * A client beside this JVM's, closed by its caller, with this time limit.
     */
    ForebayClient another(long retryMillis) {
        return open(conf.clientSettings().set("retry_deadline_ms", retryMillis));
    }

    private ForebayClient open(ClientSettings settings) {
        // A property set by hand for this JVM beats a key for all.
        if (conf.nativeDir().isPresent() && System.getProperty(NativeLibrary.DIRECTORY) == null) {
            System.setProperty(NativeLibrary.DIRECTORY, conf.nativeDir().get());
        }
        NativeLibrary.spareDirectories(localDirectories());
        SparkEnv env = SparkEnv.get();
        // None yet: Spark's driver is being made.
        boolean driver = env == null || env.executorId().equals("driver");
        conf.boundMemory(settings, driver);
        if (driver) {
            conf.prove(settings);
        }
        if (conf.encrypts()) {
            settings.encrypt(encryptionKey());
        }
        TlsFiles.apply(tls(), settings);
        NativeLog.start(new NativeLogger());
        return ForebayClient.open(settings);
    }

    /** Spark's own directory for files: without a writable one Spark would not run. */
    private static List<String> localDirectories() {
        SparkEnv env = SparkEnv.get();
        List<String> directories = new ArrayList<>();
        if (env != null && env.blockManager() != null) {
            for (File directory : env.blockManager().diskBlockManager().localDirs()) {
                directories.add(directory.getPath());
            }
        }
        return directories;
    }

    /** Made by Spark on the driver and given to executors over its own RPC. */
    private static byte[] encryptionKey() {
        Option<byte[]> key = SparkEnv.get().securityManager().getIOEncryptionKey();
        if (key.isEmpty()) {
            throw new IllegalStateException(
                    ForebayConf.ENCRYPTION + " is true, and Spark has no key in this JVM: set it when the application is started, not later");
        }
        return key.get();
    }

    synchronized void close() {
        closed = true;
        if (client != null) {
            client.close();
            client = null;
        }
    }
}

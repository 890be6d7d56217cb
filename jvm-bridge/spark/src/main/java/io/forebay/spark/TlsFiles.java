package io.forebay.spark;

import io.forebay.core.ClientSettings;
import io.forebay.spark.ForebayConf.Key;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import org.apache.spark.SparkConf;

/**
 * TLS with the servers: files of the driver, read once, when its shuffle manager is made. Executors
 * need none: they get the content with their tasks, in the handle of the shuffle, as they get the
 * app's token. A SparkConf, which is shown in the UI, has paths only.
 */
final class TlsFiles {
    private static final int CA = 0;
    private static final int SERVER_NAME = 1;
    private static final int CERT = 2;
    private static final int KEY = 3;

    private TlsFiles() {}

    /**
     * Authority, server name, certificate and private key, the last three null if not set; null
     * without {@link Key#TLS_CA}. An array, because a handle may be of another class loader. An
     * {@link IllegalArgumentException} names key, value and remedy.
     */
    static String[] read(SparkConf conf) {
        if (value(conf, Key.TLS_CA) == null) {
            for (Key key : new Key[] {Key.TLS_SERVER_NAME, Key.TLS_CERT, Key.TLS_KEY}) {
                if (value(conf, key) != null) {
                    throw bad(conf, key, "it is for TLS, which " + Key.TLS_CA.key + " switches on: set that, too");
                }
            }
            return null;
        }
        if ((value(conf, Key.TLS_CERT) == null) != (value(conf, Key.TLS_KEY) == null)) {
            Key set = value(conf, Key.TLS_CERT) == null ? Key.TLS_KEY : Key.TLS_CERT;
            throw bad(conf, set, "certificate and private key belong together: set " + (set == Key.TLS_KEY ? Key.TLS_CERT : Key.TLS_KEY).key + ", too");
        }
        String[] tls = new String[4];
        tls[CA] = file(conf, Key.TLS_CA, "CERTIFICATE-----");
        tls[SERVER_NAME] = value(conf, Key.TLS_SERVER_NAME);
        tls[CERT] = file(conf, Key.TLS_CERT, "CERTIFICATE-----");
        tls[KEY] = file(conf, Key.TLS_KEY, "PRIVATE KEY-----");
        return tls;
    }

    /** Has a client use what {@link #read} found; nothing of null. */
    static void apply(String[] tls, ClientSettings settings) {
        if (tls != null) {
            settings.tls(tls[CA], tls[SERVER_NAME], tls[CERT], tls[KEY])
                    .name("tls_ca", Key.TLS_CA.key)
                    .name("tls_server_name", Key.TLS_SERVER_NAME.key)
                    .name("tls_cert", Key.TLS_CERT.key)
                    .name("tls_key", Key.TLS_KEY.key);
        }
    }

    private static String file(SparkConf conf, Key key, String mark) {
        String file = value(conf, key);
        if (file == null) {
            return null;
        }
        String text;
        try {
            text = new String(Files.readAllBytes(Paths.get(file)), StandardCharsets.ISO_8859_1);
        } catch (IOException | RuntimeException e) {
            throw bad(conf, key, "it cannot be read on the driver (" + e + "): name a PEM file there");
        }
        if (!text.contains(mark)) {
            throw bad(conf, key, "it has no -----BEGIN … " + mark + ": give it as PEM, not encrypted");
        }
        return text;
    }

    private static String value(SparkConf conf, Key key) {
        String value = conf.get(key.key, "").trim();
        return value.isEmpty() ? null : value;
    }

    private static IllegalArgumentException bad(SparkConf conf, Key key, String remedy) {
        return new IllegalArgumentException(key.key + "=" + conf.get(key.key, "") + ": " + remedy);
    }
}

package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.forebay.core.ClientSettings;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TlsFilesTest {
    private static final String CERT = "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n";
    private static final String KEY = "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n-----END PRIVATE KEY-----\n";

    @TempDir
    Path folder;

    private String file(String name, String text) throws IOException {
        return Files.write(folder.resolve(name), text.getBytes(StandardCharsets.UTF_8)).toString();
    }

    private static SparkConf conf(String... keysAndValues) {
        SparkConf conf = new SparkConf(false).set("spark.forebay.servers", "a:7400");
        for (int i = 0; i < keysAndValues.length; i += 2) {
            conf.set("spark.forebay.tls." + keysAndValues[i], keysAndValues[i + 1]);
        }
        return conf;
    }

    private static String refused(String key, String... keysAndValues) {
        SparkConf conf = conf(keysAndValues);
        String message = assertThrows(IllegalArgumentException.class, () -> TlsFiles.read(conf)).getMessage();
        assertTrue(message.startsWith("spark.forebay.tls." + key + "="), message);
        return message;
    }

    @Test
    void withoutKeysEverythingGoesInTheClear() {
        assertNull(TlsFiles.read(conf()));
        ClientSettings settings = new ClientSettings(Collections.singleton("a:1"));
        TlsFiles.apply(null, settings);
        assertFalse(settings.toString().contains("tls"), settings.toString());
    }

    @Test
    void contentOfTheFilesIsForTheClientAndForNobodyElse() throws IOException {
        String ca = file("ca", CERT);
        String cert = file("cert", CERT);
        String key = file("key", KEY);
        assertArrayEquals(new String[] {CERT, null, null, null}, TlsFiles.read(conf("ca", ca)));
        String[] tls = TlsFiles.read(conf("ca", ca, "serverName", "n", "cert", cert, "key", key));
        assertArrayEquals(new String[] {CERT, "n", CERT, KEY}, tls);
        ClientSettings settings = new ClientSettings(Collections.singleton("a:1"));
        TlsFiles.apply(tls, settings);
        assertFalse(settings.toString().contains("TOPSECRET"), settings.toString());
        assertTrue(settings.toString().contains("\"tls_ca\":\"spark.forebay.tls.ca\""), settings.toString());
    }

    @Test
    void whatCannotBeIsRefusedWithKeyValueAndRemedy() throws IOException {
        String ca = file("ca", CERT);
        String key = file("key", KEY);
        assertTrue(refused("serverName", "serverName", "n").contains("spark.forebay.tls.ca"));
        assertTrue(refused("cert", "cert", ca).contains("spark.forebay.tls.ca"));
        assertTrue(refused("cert", "ca", ca, "cert", ca).contains("spark.forebay.tls.key"));
        assertTrue(refused("key", "ca", ca, "key", key).contains("spark.forebay.tls.cert"));
        assertTrue(refused("ca", "ca", "/nowhere.pem").contains("on the driver"));
        String mistaken = refused("ca", "ca", key);
        assertTrue(mistaken.contains("PEM"), mistaken);
        assertFalse(mistaken.contains("TOPSECRET"), mistaken);
        assertTrue(refused("key", "ca", ca, "cert", ca, "key", ca).contains("PRIVATE KEY"));
        // An executor reads no file.
        assertEquals("a:7400", new ForebayConf(conf("ca", "/nowhere.pem"), false).servers().get(0));
    }
}

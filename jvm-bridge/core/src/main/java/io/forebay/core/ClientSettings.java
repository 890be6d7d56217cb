package io.forebay.core;

import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Settings of a {@link ForebayClient}. Only the servers are required. Names are listed in
 * {@code jvm-bridge/native/src/settings.rs}; opening a client refuses unknown names.
 */
public final class ClientSettings {
    private final Map<String, String> fields = new LinkedHashMap<>();
    private final Map<String, String> names = new LinkedHashMap<>();
    private final Map<String, String> secrets = new LinkedHashMap<>();
    private byte[] key;
    private String poolSecret;

    /**
     * @param servers {@code host:port} or {@code dns://name:port}
     */
    public ClientSettings(Collection<String> servers) {
        StringBuilder array = new StringBuilder("[");
        for (String server : servers) {
            array.append(array.length() > 1 ? "," : "");
            quote(array, server);
        }
        fields.put("servers", array.append(']').toString());
    }

    /** Sets a number: milliseconds, bytes or a count, as the end of its name says. */
    public ClientSettings set(String name, long value) {
        fields.put(name, Long.toString(value));
        return this;
    }

    /**
     * Name of a setting in errors, as known to the person who set it, without the unit at its end:
     * {@code retry_deadline}.
     */
    public ClientSettings name(String setting, String name) {
        StringBuilder quoted = new StringBuilder();
        quote(quoted, name);
        names.put(setting, quoted.toString());
        return this;
    }

    /**
     * Encrypts blocks with this key, 16 to 64 bytes. Every client of an application needs the same.
     */
    public ClientSettings encrypt(byte[] key) {
        this.key = key.clone();
        return this;
    }

    /**
     * Proves to the servers, by the pool's secret, that this driver belongs to their pool; instead
     * of a file with the secret ({@code auth_file}).
     */
    public ClientSettings poolSecret(String secret) {
        this.poolSecret = secret;
        return this;
    }

    /** Null if blocks are not encrypted. In no other text of this object. */
    byte[] encryptionKey() {
        return key;
    }

    /**
     * Speaks TLS with the servers.
     *
     * @param ca certificates of the authorities to trust, as PEM
     * @param serverName name that servers' certificates must have; null for their hosts
     * @param cert the client's own certificate as PEM, or null
     * @param key its private key as PEM, or null
     */
    public ClientSettings tls(String ca, String serverName, String cert, String key) {
        secret("tls_ca", ca);
        secret("tls_server_name", serverName);
        secret("tls_cert", cert);
        secret("tls_key", key);
        return this;
    }

    private void secret(String name, String value) {
        if (value != null) {
            StringBuilder quoted = new StringBuilder();
            quote(quoted, value);
            secrets.put(name, quoted.toString());
        }
    }

    /** Sets a word. */
    public ClientSettings set(String name, String value) {
        StringBuilder quoted = new StringBuilder();
        quote(quoted, value);
        fields.put(name, quoted.toString());
        return this;
    }

    /** For the native side alone: a secret may be in it. */
    String json() {
        Map<String, String> all = new LinkedHashMap<>(fields);
        if (poolSecret != null) {
            StringBuilder quoted = new StringBuilder();
            quote(quoted, poolSecret);
            all.put("auth_secret", quoted.toString());
        }
        all.putAll(secrets);
        return withNames(all);
    }

    private String withNames(Map<String, String> all) {
        if (!names.isEmpty()) {
            all.put("names", object(names));
        }
        return object(all);
    }

    private static String object(Map<String, String> fields) {
        StringBuilder json = new StringBuilder("{");
        for (Map.Entry<String, String> field : fields.entrySet()) {
            json.append(json.length() > 1 ? "," : "");
            quote(json, field.getKey());
            json.append(':').append(field.getValue());
        }
        return json.append('}').toString();
    }

    private static void quote(StringBuilder json, String text) {
        json.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < 0x20) {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        json.append('"');
    }

    @Override
    public String toString() {
        return withNames(new LinkedHashMap<>(fields));
    }
}

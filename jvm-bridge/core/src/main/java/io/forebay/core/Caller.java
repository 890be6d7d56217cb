package io.forebay.core;

import java.util.Objects;

/**
 * The app behind a call: its id, its token, and how long its data outlive the last call.
 */
public final class Caller {
    final String app;
    final String token;
    final long leaseMillis;

    /**
     * @param leaseMillis 0 = the server's default
     */
    public Caller(String app, String token, long leaseMillis) {
        this.app = Objects.requireNonNull(app, "app");
        this.token = Objects.requireNonNull(token, "token");
        this.leaseMillis = leaseMillis;
    }

    public String app() {
        return app;
    }

    public String token() {
        return token;
    }

    public long leaseMillis() {
        return leaseMillis;
    }

    /** Without the token: this is logged. */
    @Override
    public String toString() {
        return "Caller(" + app + ", lease " + leaseMillis + " ms)";
    }
}

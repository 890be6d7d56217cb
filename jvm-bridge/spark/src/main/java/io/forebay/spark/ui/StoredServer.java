package io.forebay.spark.ui;

import java.util.Collections;
import java.util.Set;
import org.apache.spark.util.kvstore.KVIndex;

/** A server used by tasks, by address, for the tab. */
public final class StoredServer {
    @KVIndex public String address = "";

    /** Servers with map outputs of this application. Replaced, never changed. */
    public Set<String> volumes = Collections.emptySet();

    public Flow written = new Flow();
    public Flow read = new Flow();
    public long fetchFailures;

    /** Of the last try or fetch that failed. */
    public String lastFailure = "";
}

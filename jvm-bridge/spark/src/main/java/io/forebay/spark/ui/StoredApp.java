package io.forebay.spark.ui;

import java.util.Collections;
import java.util.Map;
import org.apache.spark.util.kvstore.KVIndex;

/**
 * The application, for the tab. Public fields, like all stored classes: the history server keeps
 * them as JSON.
 */
public final class StoredApp {
    /** There is one. */
    static final String KEY = "app";

    @KVIndex public String key = KEY;
    public String fallback = "";
    public String app = "";
    public Map<String, String> settings = Collections.emptyMap();
    public int shuffles;
    public Flow written = new Flow();
    public Flow read = new Flow();
    public long fetchFailures;
}

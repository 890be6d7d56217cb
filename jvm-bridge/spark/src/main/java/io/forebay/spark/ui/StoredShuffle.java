package io.forebay.spark.ui;

import java.util.Collections;
import java.util.Set;
import org.apache.spark.util.kvstore.KVIndex;

/** A shuffle as the tab shows it. */
public final class StoredShuffle {
    @KVIndex public int shuffle;
    public int maps;
    public int partitions;
    public String durability = "";

    /** The last Spark stage to write the shuffle; -1 before. */
    public int stage = -1;

    /** Map outputs that were committed: more than maps if some ran again or twice. */
    public long outputs;

    /** Replaced, never changed: the page may be reading it. */
    public Set<String> servers = Collections.emptySet();

    public Flow written = new Flow();
    public Flow read = new Flow();
    public long fetchFailures;
}
